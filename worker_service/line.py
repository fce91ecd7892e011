"""Attempts that wait for a slot, in the order of their arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from worker_service.attempts import Attempt


class Line:
    """One waiting line.

    Args:
        patience: seconds that an attempt waits before another worker may have it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._waiting: deque[Attempt] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> Attempt:
        """The one that has waited longest."""
        return self._waiting[0]

    @property
    def overdue_at(self) -> float:
        """When the patience of the first one is over, by the event loop's clock."""
        return self._waiting[0].arrived + self._patience

    def add(self, attempt: Attempt) -> None:
        """Let it wait."""
        self._waiting.append(attempt)

    def take(self, most: int) -> list[Attempt]:
        """The first ones, `most` at most."""
        waiting = self._waiting
        return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    def take_overdue(self, now: float) -> list[Attempt]:
        """Those whose patience is over."""
        overdue = []
        while self._waiting and now >= self.overdue_at:
            overdue.append(self._waiting.popleft())
        return overdue

    def take_all(self) -> list[Attempt]:
        """Everyone."""
        return self.take(len(self._waiting))

    def take_leases(self, leases: Collection[str]) -> list[Attempt]:
        """Those with these leases, from wherever they stand."""
        taken = [attempt for attempt in self._waiting if attempt.assignment.lease in leases]
        if taken:
            self._waiting = deque(each for each in self._waiting if each.assignment.lease not in leases)
        return taken

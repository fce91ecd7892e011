"""Attempts that wait for a slot: express ones first, the others after them, both in the order of their arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import chain

from worker_service.attempts import Attempt


class Line:
    """One waiting line.

    Args:
        patience: seconds that an attempt waits before another worker may have it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._express: deque[Attempt] = deque()
        self._waiting: deque[Attempt] = deque()

    def __len__(self) -> int:
        return len(self._express) + len(self._waiting)

    @property
    def turn(self) -> tuple[bool, float]:
        """The turn of the first one: of two lines, the one with the lower turn goes first."""
        return not self._express, (self._express or self._waiting)[0].arrived

    @property
    def overdue_at(self) -> float:
        """When the patience of the one that has waited longest is over, by the event loop's clock."""
        return min(each[0].arrived for each in (self._express, self._waiting) if each) + self._patience

    def add(self, attempt: Attempt) -> None:
        """Let it wait."""
        (self._express if attempt.bundle.express else self._waiting).append(attempt)

    def take(self, most: int) -> list[Attempt]:
        """The first ones, `most` at most."""
        waiting = self._waiting
        if self._express:
            taken = [self._express.popleft() for _ in range(min(most, len(self._express)))]
            return taken + [waiting.popleft() for _ in range(min(most - len(taken), len(waiting)))]
        return [waiting.popleft() for _ in range(min(most, len(waiting)))]

    def take_overdue(self, now: float) -> list[Attempt]:
        """Those whose patience is over."""
        overdue = []
        for waiting in (self._express, self._waiting):
            while waiting and now >= waiting[0].arrived + self._patience:
                overdue.append(waiting.popleft())
        return overdue

    def take_all(self) -> list[Attempt]:
        """Everyone."""
        return self.take(len(self))

    def take_leases(self, leases: Collection[str]) -> list[Attempt]:
        """Those with these leases, from wherever they stand."""
        taken = [attempt for attempt in chain(self._express, self._waiting) if attempt.assignment.lease in leases]
        if taken:
            self._express = deque(each for each in self._express if each.assignment.lease not in leases)
            self._waiting = deque(each for each in self._waiting if each.assignment.lease not in leases)
        return taken

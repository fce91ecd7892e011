"""How queues that share workers share their slots: by weight, and what one does not use goes to the others.

Shares are of slots, so of time, not of numbers of tasks: a queue of long tasks gets no more than one of short tasks. A
share is rarely a whole number. Its fraction is a slot that the queue has for a part of the time, and whose part it is
now is told by the *lag*: slot-seconds that the queue was due, less those that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

LONGEST_LAG: Final = 600.0
"""Slot-seconds; more is neither owed nor held against a queue."""
LONGEST_STEP: Final = 60.0
"""Seconds; nothing is due for a longer time in which nobody asked."""
_EPSILON: Final = 1e-9


class Group(Struct, gc=False):
    """Workers that serve the same queues.

    Attributes:
        queues: which.
        slots: how many slots they have together, also those that are held by workers which take no more.
        open: of these, the slots of workers that take tasks.
        workers: how many workers take tasks.
    """

    queues: frozenset[str]
    slots: int
    open: int = 0
    workers: int = 0


def divide(
    groups: Iterable[Group], demands: Mapping[str, float], weigh: Callable[[str], float]
) -> dict[str, float]:  # fmt: skip
    """Slots for each queue, at most its demand: by weight in each group, until nothing or nobody is left.

    Args:
        groups: the workers.
        demands: how many slots each queue could use.
        weigh: the weight of a queue.

    Example:
        >>> divide([Group(frozenset("ab"), 10)], {"a": 100, "b": 100}, {"a": 3.0, "b": 1.0}.__getitem__)
        {'a': 7.5, 'b': 2.5}
        >>> divide([Group(frozenset("ab"), 10)], {"a": 100, "b": 1}, {"a": 3.0, "b": 1.0}.__getitem__)
        {'a': 9.0, 'b': 1}
    """
    left = [[float(group.slots), group.queues] for group in groups]
    shares: dict[str, float] = {queue: 0.0 for queue, demand in demands.items() if demand > 0}
    hungry = {queue: weigh(queue) for queue in shares}
    while hungry:
        offers = dict.fromkeys(hungry, 0.0)
        parts: list[dict[str, float]] = []
        for slots, queues in left:
            weights = {queue: weight for queue, weight in hungry.items() if queue in queues}  # type: ignore[operator]
            whole = sum(weights.values())
            part = {queue: slots * weight / whole for queue, weight in weights.items()}  # type: ignore[operator]
            parts.append(part)
            for queue, offer in part.items():
                offers[queue] += offer
        sated = [queue for queue, offer in offers.items() if demands[queue] <= offer + _EPSILON]
        if not sated:
            shares |= offers
            break
        for queue in sated:
            shares[queue] = demands[queue]
            for each, part in zip(left, parts, strict=True):
                if part.get(queue):
                    each[0] -= demands[queue] * part[queue] / offers[queue]  # type: ignore[operator]
            del hungry[queue]
    return shares


class Shares:
    """What is due to queues, over time.

    Args:
        weigh: the weight of a queue.
    """

    def __init__(self, weigh: Callable[[str], float]) -> None:
        self._weigh = weigh
        self._lags: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._at = 0.0

    def used(self, queue: str, seconds: float) -> None:
        """A task of `queue` has had a slot for so long."""
        lag = self._lags.get(queue)
        if lag is not None:
            self._lags[queue] = max(-LONGEST_LAG, lag - seconds)

    def lag(self, queue: str) -> float:
        """Slot-seconds that were due to `queue` and that it did not have."""
        return self._lags.get(queue, 0.0)

    def divide(self, groups: Iterable[Group], demands: Mapping[str, float], now: float) -> dict[str, float]:
        """Divide the slots from `now` (monotonic seconds) until this is asked again."""
        step = min(max(0.0, now - self._at), LONGEST_STEP)
        self._at = max(self._at, now)
        due = divide(groups, demands, self._weigh)
        lags = {queue: self._lags.get(queue, 0.0) + self._due.get(queue, 0.0) * step for queue in due}
        for queue, slots in due.items():
            if demands[queue] <= slots + _EPSILON:  # it has all that it wants, and is not owed what it did not use
                lags[queue] = min(lags[queue], 0.0)
        self._lags = _balanced(lags, due)
        self._due = due
        return due

    def peek(self, groups: Iterable[Group], demands: Mapping[str, float]) -> dict[str, float]:
        """What would be due now."""
        return divide(groups, demands, self._weigh)


def _balanced(lags: Mapping[str, float], due: Mapping[str, float]) -> dict[str, float]:
    """Lags that are nought in sum, so that they say who is behind the others.

    Slots are idle for a moment between two tasks, and a task counts only when it is over: else all lags would rise
    together, or fall.
    """
    whole = sum(due.values())
    drift = sum(lags.values()) / whole if whole > 0 else 0.0
    return {queue: max(-LONGEST_LAG, min(LONGEST_LAG, lag - drift * due[queue])) for queue, lag in lags.items()}

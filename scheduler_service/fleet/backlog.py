"""How many tasks are queued, by lane. The tasks themselves are in the store; here are their numbers only.

Lanes with tasks of one queue, priority and fairness key are one *flow* (`fairness.Flow`): between the flows of a level
turns are taken, inside a flow store order counts. The number of lanes is bounded: beyond `max_lanes`, tasks of new keys
share an *overflow* lane. So `place` has to be asked under which lane a task is stored, and the store keeps that number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from scheduler_service.fleet.fairness import FairQueue, Flow, Waiting
from scheduler_service.fleet.lanes import Lane, lane

OVERFLOW: Final = "\x01overflow"
"""The key of overflow lanes; no client can choose it, because a control character stands in it."""


class Found(Struct, frozen=True):
    """What the store says of one lane.

    Attributes:
        lane: which (from `Backlog.resolve`).
        count: how many of its tasks are queued.
        oldest: when the oldest of them was due, seconds since the epoch, or None if that is not known.
    """

    lane: Lane
    count: int
    oldest: float | None = None


class Backlog:
    """The numbers of queued tasks.

    Args:
        max_lanes: how many lanes are told apart at most.
        has_quota: whether the task function or the key of a lane has limits of its own (`Ledger.limits`): such lanes
            overflow only at twice that number, so that the limits hold.
        weigh: the weight of a fairness key (`Ledger.weight_of_key`); without it all weigh 1.
    """

    def __init__(
        self,
        max_lanes: int = 10_000,
        has_quota: Callable[[Lane], bool] | None = None,
        weigh: Callable[[str], float] | None = None,
    ) -> None:
        self._weigh = weigh
        self._max_lanes = max_lanes
        self._has_quota = has_quota
        self._queues: dict[str, dict[int, FairQueue]] = {}
        self._waiting: dict[int, Waiting] = {}
        self._totals: dict[str, int] = {}

    def place(self, wanted: Lane, coming: int = 0) -> Lane:
        """The lane under which such a task is to be stored: `wanted`, or an overflow lane when there are too many.

        Args:
            wanted: the lane that it has by itself.
            coming: how many lanes of the same batch have been placed, and are not counted yet.
        """
        known = len(self._waiting) + coming
        if wanted.number in self._waiting or known < self._max_lanes:
            return wanted
        if self._has_quota is not None and self._has_quota(wanted) and known < 2 * self._max_lanes:
            return wanted
        for times, overflow in enumerate(_overflows(wanted), start=2):
            if overflow.number in self._waiting or known < times * self._max_lanes:
                return overflow
        return _last_resort(wanted)

    def resolve(self, number: int, actual: Lane) -> Lane:
        """The lane that `number`, found in the store, stands for.

        Args:
            number: the column `lane` of a task.
            actual: the lane that the task would have by itself (`lanes.lane` of what it is).
        """
        if number == actual.number:
            return actual
        known = self._waiting.get(number)
        if known is not None:
            return known.lane
        for overflow in _overflows(actual):
            if number == overflow.number:
                return overflow
        return Lane(number, actual.queue, actual.priority, "", OVERFLOW)

    def add(self, lane: Lane, count: int, oldest: float | None = None) -> None:
        """`count` more tasks are queued; fewer when it is negative. At 0 the lane is dropped.

        Args:
            lane: which lane, from `place` or `resolve`.
            count: how many.
            oldest: when the oldest of those that came was due, or of those that are left when `count` is negative;
                seconds since the epoch.
        """
        waiting = self._waiting.get(lane.number)
        before = waiting.count if waiting is not None else 0
        count = max(count, -before)
        if count == 0:
            return
        self._totals[lane.queue] = self._totals.get(lane.queue, 0) + count
        level = self._level(lane)
        if waiting is None:
            waiting = self._waiting[lane.number] = Waiting(lane, 0, 0, oldest)
        elif oldest is not None and (count < 0 or waiting.oldest is None or oldest < waiting.oldest):
            waiting.oldest = oldest
        level.add(waiting, count)
        if waiting.count == 0:
            self._drop(waiting, level)

    def settle(
        self, lanes: Sequence[Lane], wanted: int, found: Mapping[int, int], oldest: Mapping[int, float] | None = None
    ) -> None:
        """Take note of what a claim has found: those are queued no more.

        When fewer were found than wanted, none is left in these lanes.

        Args:
            lanes: that were looked through.
            wanted: how many tasks were to be claimed.
            found: by number of the lane, how many were (expired ones, too).
            oldest: by number of the lane, when the last of those that were found was due: those that are left are
                hardly older.
        """
        none_left = sum(found.values()) < wanted
        for each in lanes:
            waiting = self._waiting.get(each.number)
            if waiting is not None:
                gone = waiting.count if none_left else found.get(each.number, 0)
                self.add(each, -gone, oldest.get(each.number) if oldest is not None else None)

    def replace(self, found: Iterable[Found]) -> None:
        """Forget everything, and take what the store says now. Whose turn it is stays known."""
        for waiting in list(self._waiting.values()):
            self.add(waiting.lane, -waiting.count)
        for each in found:
            self.add(each.lane, each.count, each.oldest)

    def total(self, queue: str) -> int:
        """How many tasks of `queue` are queued."""
        return self._totals.get(queue, 0)

    def totals(self) -> Mapping[str, int]:
        """How many tasks are queued, by queue, for those that have any."""
        return self._totals

    def queues(self) -> list[str]:
        """The queues that have queued tasks."""
        return list(self._totals)

    def lanes(self, queue: str) -> Iterator[Waiting]:
        """The lanes of `queue` that have queued tasks."""
        for level in self._queues.get(queue, {}).values():
            for flow in level.flows.values():
                yield from flow.lanes.values()

    def count(self, lane: Lane) -> int:
        """How many tasks of `lane` are queued."""
        waiting = self._waiting.get(lane.number)
        return waiting.count if waiting is not None else 0

    def oldest(self, queue: str) -> float | None:
        """When the oldest queued task of `queue` was due, seconds since the epoch; None when it is not known."""
        return min((each.oldest for each in self.lanes(queue) if each.oldest is not None), default=None)

    def keyed(self, queue: str) -> bool:
        """Whether tasks with a fairness key wait in `queue`."""
        return any(len(level.flows) > ("" in level.flows) for level in self._queues.get(queue, {}).values())

    def levels(self, queue: str) -> Mapping[int, FairQueue]:
        """The flows of `queue` that wait, by priority."""
        return self._queues.get(queue, {})

    def flow(self, lane: Lane) -> Flow | None:
        """The flow of `lane`, if any of its tasks wait."""
        level = self._queues.get(lane.queue, {}).get(lane.priority)
        return level.flows.get(lane.key) if level is not None else None

    def __len__(self) -> int:
        return len(self._waiting)

    def _level(self, lane: Lane) -> FairQueue:
        levels = self._queues.setdefault(lane.queue, {})
        level = levels.get(lane.priority)
        if level is None:
            level = levels[lane.priority] = FairQueue() if self._weigh is None else FairQueue(self._weigh)
        return level

    def _drop(self, waiting: Waiting, level: FairQueue) -> None:
        queue, priority = waiting.lane.queue, waiting.lane.priority
        del self._waiting[waiting.lane.number]
        if self._totals[queue] == 0:
            del self._totals[queue]
        if not level.flows:
            del self._queues[queue][priority]
            if not self._queues[queue]:
                del self._queues[queue]


def _overflows(wanted: Lane) -> tuple[Lane, Lane]:
    """Lanes in place of `wanted`: first without its key, then without its function; both can run where it can."""
    return (
        lane(wanted.queue, wanted.priority, wanted.task, OVERFLOW, wanted.requires),
        lane(wanted.queue, wanted.priority, "", OVERFLOW, wanted.requires),
    )


def _last_resort(wanted: Lane) -> Lane:
    return lane(wanted.queue, wanted.priority, "", OVERFLOW)

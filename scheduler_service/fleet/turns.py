"""Whose turn it is: which queued tasks are dispatched next, and where to.

Inside a queue: strict priority, with `ageing` as far as the queue has it; at one priority, weighted turns between the
fairness keys (`fairness`); inside a key, store order. A lane that may not go - its rate, its concurrency, a pause, no
capable worker - blocks no other. The order of events is::

    plan -> reserve room for each turn -> claim in the store -> settle -> publish
    admit -> reserve room -> store as dispatched -> settle_new -> publish

A plan takes from the ledger and marks in the backlog what it hands out, so every turn has to be settled, or doubted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from scheduler_service.fleet.backlog import Backlog
from scheduler_service.fleet.capability import Capability, Serves
from scheduler_service.fleet.fairness import FairQueue, Flow, Waiting
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import UNLIMITED, Ledger

MERGED: Final = 64
"""Lanes of one turn at most: those whose oldest task is oldest."""
PARTS: Final = 64
"""A plan gives a flow one part in so many of the room at a time, or one task."""


class Turn(Struct, frozen=True):
    """What is to be claimed together.

    Attributes:
        lanes: of one queue, priority and key; their tasks are merged in store order. Limits and capability are the
            same for all of them.
        count: how many tasks at most.
        worker: the id of the worker to whose direct queue they go; empty: to the shared work queue.
    """

    lanes: tuple[Lane, ...]
    count: int
    worker: str = ""

    @property
    def queue(self) -> str:
        """The queue of all its lanes."""
        return self.lanes[0].queue


class Rooms(Struct, frozen=True):
    """Where turns find room.

    Attributes:
        queue: how many more tasks of a queue may be out at a moment (`Flights.room`).
        worker: how many more tasks may go to a worker's direct queue (`Flights.direct_room`).
    """

    queue: Callable[[str, float], int]
    worker: Callable[[str], int]


class Turns:
    """Decides about turns.

    Args:
        backlog: what is queued.
        ledger: what each may have.
        capability: who can run what.
        rooms: where there is room.
    """

    def __init__(self, backlog: Backlog, ledger: Ledger, capability: Capability, rooms: Rooms) -> None:
        self._backlog = backlog
        self._ledger = ledger
        self._capability = capability
        self._rooms = rooms

    def plan(self, now: float, wall: float, most: int = 1000) -> list[Turn]:
        """What is to be claimed now, at most `most` tasks of each queue, in the order in which they are to go.

        Args:
            now: monotonic seconds.
            wall: seconds since the epoch, for ageing.
            most: the most tasks of one queue.
        """
        raise NotImplementedError

    def admit(self, lane: Lane, count: int, now: float) -> int:
        """How many of `count` new tasks of `lane` may be stored as dispatched at once, to the shared work queue.

        None when that would overtake a task that waits and may go. They are taken from the ledger: tell what became
        of them with `admitted`.
        """
        raise NotImplementedError

    def admitted(self, lane: Lane, stored: int, unused: int, now: float) -> None:
        """Of what `admit` let go, `stored` were committed and are published now, `unused` were not needed."""
        raise NotImplementedError

    def settle(
        self, turn: Turn, found: Mapping[int, int], sent: int, now: float, oldest: Mapping[int, float] | None = None
    ) -> None:
        """The claim of `turn` is committed, and its tasks are published now.

        Args:
            turn: from `plan`.
            found: by number of the lane, how many tasks were found (those that were over, too).
            sent: how many of these are dispatched.
            now: monotonic seconds.
            oldest: by number of the lane, when the last one found was due, seconds since the epoch.
        """
        raise NotImplementedError

    def doubt(self, turn: Turn, now: float) -> None:
        """Nobody knows whether the claim of `turn` was committed: the backlog is to be read anew (`replace`)."""
        raise NotImplementedError

    def doubt_admitted(self, lane: Lane, count: int, now: float) -> None:
        """Nobody knows whether `count` tasks that `admit` let go were committed."""
        raise NotImplementedError

    def runnable(self, queue: str, now: float) -> int:
        """How many queued tasks of `queue` may go as far as is known: its claim to slots that it shares."""
        raise NotImplementedError

    def again_at(self) -> float | None:
        """When time alone lets something go that may not now, monotonic seconds; None when nothing waits for that."""
        return self._ledger.next_free

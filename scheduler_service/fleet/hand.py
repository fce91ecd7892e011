"""What one plan hands out: its turns, and what room it has left at single workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush, nsmallest
from typing import Final

from msgspec import Struct

from scheduler_service.fleet.capability import Ability
from scheduler_service.fleet.fairness import Flow, Waiting
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import Ledger

MERGED: Final = 64
"""Lanes of one turn at most: those whose oldest task is oldest."""


class Turn(Struct, frozen=True):
    """What is to be claimed together.

    Attributes:
        lanes: of one queue, priority and key; their tasks are merged in store order. The same limits count for all.
        count: how many tasks at most.
        worker: the id of the worker to whose direct queue they go; empty: to the shared work queue.
        apart: its one lane takes turns with others of its key, because it has a limit or a worker of its own.
        express: they go past the window, and start before what came to that worker otherwise.
    """

    lanes: tuple[Lane, ...]
    count: int
    worker: str = ""
    apart: bool = False
    express: bool = False

    @property
    def queue(self) -> str:
        """The queue of all its lanes."""
        return self.lanes[0].queue


_Merged = dict[int, tuple[tuple[Lane, ...], int]]
"""By the id of a flow: its lanes that go together, and how many of their tasks may be handed out."""
_Turns = dict[tuple[int, str, bool], Turn]
"""By the number of its first lane, its worker, and whether it is express."""


class Hand:
    """Hands out to the shared work queues, and to the direct queues of workers where only some can run a lane.

    Args:
        direct_room: how many more tasks may be sent to the direct queue of a worker.
        ledger: from which it takes what it hands out.
    """

    def __init__(self, direct_room: Callable[[str], int], ledger: Ledger) -> None:
        self._ledger = ledger
        self._room_at = direct_room
        self._direct: dict[str, int] = {}
        self._merged: _Merged = {}
        self._turns: _Turns = {}
        self._by_express: Counter[str] = Counter()

    def express(self, rooms: Mapping[str, int]) -> ExpressHand:
        """The hand that hands out past the windows; its turns are among those of this one.

        Args:
            rooms: how many more tasks each worker may be sent by express.
        """
        return ExpressHand(rooms, self._ledger, self._merged, self._turns, self._by_express)

    def __bool__(self) -> bool:
        return bool(self._turns)

    def turns(self) -> list[Turn]:
        """The turns in the order in which they were first given."""
        return list(self._turns.values())

    def direct_room(self, worker: str) -> int:
        """How many more tasks may go to a worker's direct queue after what this plan sends there."""
        room = self._direct.get(worker)
        if room is None:
            room = self._direct[worker] = self._room_at(worker)
        return room

    def best_of(self, ability: Ability) -> str | None:
        """Of the capable workers the one with most room, or None when none has any."""
        best = max(ability.workers, key=self.direct_room, default=None)
        return best if best is not None and self.direct_room(best) > 0 else None

    def apart(self, waiting: Waiting, count: int, worker: str) -> None:
        """Hand out `count` tasks of a lane by itself."""
        waiting.planned += count
        self._give((waiting.lane,), count, worker, apart=True)

    def merge(self, flow: Flow, shared: list[Waiting], most: int) -> int:
        """Hand out up to `most` tasks of the lanes of a flow that go together; returns how many."""
        lanes, capacity = self._merged.get(id(flow), ((), 0))
        if not lanes:
            if len(shared) > MERGED:
                shared = nsmallest(MERGED, shared, key=lambda each: each.oldest or 0.0)
            lanes = tuple(each.lane for each in shared)
            capacity = sum(each.count for each in shared)
        count = min(most, capacity, flow.count - flow.planned)
        if count <= 0:
            return 0
        self._merged[id(flow)] = (lanes, capacity - count)
        flow.planned += count
        self._give(lanes, count, "", apart=False)
        return count

    def _give(self, lanes: tuple[Lane, ...], count: int, worker: str, *, apart: bool) -> None:
        self._add(Turn(lanes, count, worker, apart))
        if worker:
            self._direct[worker] -= count

    def _add(self, turn: Turn) -> None:
        self._ledger.take(turn.lanes[0], turn.count)
        place = (turn.lanes[0].number, turn.worker, turn.express)
        before = self._turns.get(place)
        if before is not None:
            turn = Turn(turn.lanes, before.count + turn.count, turn.worker, turn.apart, turn.express)
        self._turns[place] = turn


class ExpressHand(Hand):
    """Hands out past the windows: each task to the direct queue of the worker that has most room (`Hand.express`)."""

    def __init__(
        self, rooms: Mapping[str, int], ledger: Ledger, merged: _Merged, turns: _Turns, given: Counter[str]
    ) -> None:
        super().__init__(lambda worker: 0, ledger)
        # A plan asks for the room of each queue, and one worker may serve several of them.
        self._direct = {worker: room - given[worker] for worker, room in rooms.items() if room > given[worker]}
        self._by_express = given
        self._merged = merged
        self._turns = turns
        self._order = [(-room, worker) for worker, room in self._direct.items()]
        heapify(self._order)

    @property
    def room(self) -> int:
        """How many more tasks it may hand out."""
        return sum(self._direct.values())

    def _give(self, lanes: tuple[Lane, ...], count: int, worker: str, *, apart: bool) -> None:
        if worker:
            self._direct[worker] -= count
            self._by_express[worker] += count
            self._add(Turn(lanes, count, worker, apart, express=True))
            return
        for each in self.spread(count):
            self._add(Turn(lanes, 1, each, apart, express=True))

    def spread(self, count: int) -> Iterator[str]:
        """The worker for each of `count` tasks that any of them can run, at most as many as there is room for."""
        for _ in range(min(count, self.room)):
            room, worker = heappop(self._order)
            while -room != self._direct[worker]:  # it has been given some since
                heappush(self._order, (-self._direct[worker], worker))
                room, worker = heappop(self._order)
            self._direct[worker] -= 1
            self._by_express[worker] += 1
            heappush(self._order, (room + 1, worker))
            yield worker

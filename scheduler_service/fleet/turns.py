"""Whose turn it is: which queued tasks are dispatched next, and where to.

Inside a queue: strict priority, with `ageing` as far as the queue has it; at one priority, weighted turns between the
fairness keys (`fairness`); inside a key, store order. A lane that may not go - its rate, its concurrency, a pause, no
capable worker - blocks no other. The order of events is::

    plan  --> reserve room for each turn --> claim in the store --> settle   --> publish
    admit --> reserve room --> store as dispatched --------------> admitted --> publish

A plan takes from the ledger and marks in the backlog what it hands out, so each of its turns has to be settled, or
doubted, before the next plan.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from heapq import nsmallest
from typing import Final, Protocol

from msgspec import Struct

from scheduler_service.fleet.ageing import in_order
from scheduler_service.fleet.backlog import Backlog
from scheduler_service.fleet.capability import Ability, Capability, Serves
from scheduler_service.fleet.fairness import FairQueue, Flow, Waiting
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import UNLIMITED, Ledger

MERGED: Final = 64
"""Lanes of one turn at most: those whose oldest task is oldest."""
PARTS: Final = 64
"""Where several flows wait, a plan gives each a 64th of the room at a time, at least one task."""


LOOKS: Final = 2000
"""How many flows that turn out not to be able to go a plan looks at, or keys whose limit has let go: about 5 ms."""


class Turn(Struct, frozen=True):
    """What is to be claimed together.

    Attributes:
        lanes: of one queue, priority and key; their tasks are merged in store order. The same limits count for all.
        count: how many tasks at most.
        worker: the id of the worker to whose direct queue they go; empty: to the shared work queue.
        apart: its one lane takes turns with others of its key, because it has a limit or a worker of its own.
    """

    lanes: tuple[Lane, ...]
    count: int
    worker: str = ""
    apart: bool = False

    @property
    def queue(self) -> str:
        """The queue of all its lanes."""
        return self.lanes[0].queue


class Rooms(Protocol):
    """Where turns find room; `Flights` has these."""

    def rooms(self, queues: Sequence[str], now: float) -> Mapping[str, int]:
        """How many more tasks of each of these queues may be out, all of them together."""

    def room(self, queue: str, now: float, asking: int = UNLIMITED) -> int:
        """How many of `asking` new tasks of `queue` may be out."""

    def direct_room(self, worker: str) -> int:
        """How many more tasks may be sent to the direct queue of a worker."""

    def slots(self, queue: str) -> int:
        """The live slots that serve a queue."""


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
        self._seen = (-1, -1)
        self._unfinished = False

    def plan(self, now: float, wall: float, most: int = 1000) -> list[Turn]:
        """What is to be claimed now, in the order in which it is to go.

        Args:
            now: monotonic seconds.
            wall: seconds since the epoch, for ageing.
            most: the most tasks of one queue.
        """
        self._look(now)
        self._unfinished = False
        queues = self._backlog.queues()
        if not queues:  # each beat asks: what costs as much as there are workers is not for nothing
            return []
        hand = _Hand(self._rooms)
        while queues:
            barren = self._plan_queues(queues, now, wall, most, hand)
            if hand or not barren:
                break
            # They had the places, and nothing of them may go after all: then others have them.
            queues = [queue for queue in queues if queue not in barren]
        return hand.turns()

    def _plan_queues(self, queues: Sequence[str], now: float, wall: float, most: int, hand: _Hand) -> set[str]:
        """Fill the room of each queue; returns those that have some and nothing to fill it with."""
        barren = set()
        for queue, given in self._rooms.rooms(queues, now).items():
            room = min(given, most, self._ledger.queue_room(queue, now)) if given > 0 else 0
            if room <= 0:
                continue
            whole = room
            for level in in_order(self._backlog.levels(queue), self._ledger.ageing(queue), wall):
                if len(level.flows) > 1 or "" not in level.flows:
                    level.credit = self._rooms.slots(queue)
                room -= self._plan_level(level, room, now, hand)
                if room <= 0:
                    break
            if room == whole:
                barren.add(queue)
        return barren

    def admit(self, lane: Lane, count: int, now: float) -> int:
        """How many of `count` new tasks of `lane` may be stored as dispatched at once, to the shared work queue.

        None when that would overtake a task that waits and may go. Room has been looked at, and is to be reserved.
        They are taken from the ledger: tell with `admitted` what became of them.
        """
        levels = self._backlog.levels(lane.queue)
        if levels:
            self._look(now)
            if self._backlog.count(lane) or self._would_overtake(lane, levels, now):
                return 0
        if self._capability.of(lane).serves is not Serves.ALL:
            return 0
        count = min(count, self._ledger.allowed(lane, now))
        if count > 0:
            count = min(count, self._rooms.room(lane.queue, now, count))
        if count <= 0:
            return 0
        self._ledger.take(lane, count)
        return count

    def admitted(self, lane: Lane, stored: int, unused: int, now: float) -> None:
        """Of what `admit` let go, `stored` were committed and are published now, `unused` were not needed."""
        if stored:
            self._ledger.sent(lane, stored, now)
        if unused:
            self._ledger.give_back(lane, unused)

    def settle(
        self,
        turn: Turn,
        found: Mapping[int, int],
        sent: Mapping[int, int],
        now: float,
        oldest: Mapping[int, float] | None = None,
    ) -> None:
        """The claim of `turn` is committed, and its tasks are published now.

        Args:
            turn: from `plan`.
            found: by number of the lane, how many tasks were found (those that were over, too).
            sent: by number of the lane, how many of these are dispatched.
            now: monotonic seconds.
            oldest: by number of the lane, when the last one found was due, seconds since the epoch.
        """
        self._unplan(turn)
        self._backlog.settle(turn.lanes, turn.count, found, oldest)
        self._ledger.give_back(turn.lanes[0], turn.count)
        for lane in turn.lanes:
            count = sent.get(lane.number, 0)
            if count:
                self._ledger.take(lane, count)
                self._ledger.sent(lane, count, now)

    def doubt(self, turn: Turn, now: float) -> None:
        """Nobody knows whether the claim of `turn` was committed: the backlog is to be read anew (`replace`)."""
        self._unplan(turn)
        self._ledger.doubt(turn.lanes[0], turn.count, now)

    def doubt_admitted(self, lane: Lane, count: int, now: float) -> None:
        """Nobody knows whether `count` tasks that `admit` let go were committed."""
        self._ledger.doubt(lane, count, now)

    def runnable(self, queue: str, now: float) -> int:
        """How many queued tasks of `queue` may go as far as is known: its claim to slots that it shares."""
        self._look(now)
        levels = self._backlog.levels(queue)
        if not levels or self._ledger.queue_room(queue, now) <= 0:
            return 0
        parked = sum(level.parked_tasks for level in levels.values() if not self._passed(level, now))
        return min(self._backlog.total(queue) - parked, self._ledger.queue_room(queue, now))

    def unrunnable(self, queue: str) -> list[tuple[Waiting, str]]:
        """The lanes of `queue` that no live worker can run, each with the reason in a sentence."""
        lanes = self._backlog.lanes(queue)
        return [(each, reason) for each in lanes if (reason := self._capability.why_not(each.lane))]

    @property
    def again_at(self) -> float | None:
        """When to plan again though nothing happens, monotonic seconds, maybe in the past; None when there is no need.

        A rate lets something go then; or a plan has not looked at everything, because too much of it may not go.
        """
        return 0.0 if self._unfinished else self._ledger.next_free

    def _look(self, now: float) -> None:
        seen = (self._capability.version, self._ledger.version)
        if seen != self._seen:
            self._seen = seen
            for queue in self._backlog.queues():
                for level in self._backlog.levels(queue).values():
                    level.wake_all()
        for key in self._ledger.take_freed(now, LOOKS):
            for queue in self._backlog.queues():
                for level in self._backlog.levels(queue).values():
                    flow = level.flows.get(key)
                    if flow is not None:
                        level.wake(flow)

    def _would_overtake(self, lane: Lane, levels: Mapping[int, FairQueue], now: float) -> bool:
        aged = self._ledger.ageing(lane.queue) is not None
        return any(
            level.going or self._passed(level, now)
            for priority, level in levels.items()
            if priority >= lane.priority or aged
        )

    def _passed(self, level: FairQueue, now: float, hand: _Hand | None = None) -> list[Hashable]:
        """The reasons under which flows are parked that have passed."""
        if not level.reasons:
            return []
        hand = hand or _Hand(self._rooms)
        return [
            reason
            for reason in level.reasons
            if (
                hand.best_of(reason) is not None
                if isinstance(reason, Ability)
                else self._ledger.task_room(str(reason), now) > 0
            )
        ]

    def _plan_level(self, level: FairQueue, room: int, now: float, hand: _Hand) -> int:
        passed = self._passed(level, now, hand)
        part = room if level.going <= 1 and not passed else max(1, room // PARTS)
        left = room
        looks = LOOKS
        while left > 0:
            flow = level.first(passed)
            if flow is None:
                break
            reasons: list[Hashable] = []
            count = self._serve(flow, min(part, left), now, hand, reasons)
            if count:
                left -= count
                level.charge(flow, count)
            else:
                level.park(flow, reasons)
                looks -= 1
                if looks <= 0:
                    self._unfinished = True
                    break
                passed = self._passed(level, now, hand) if passed else passed
        return room - left

    def _serve(self, flow: Flow, most: int, now: float, hand: _Hand, reasons: list[Hashable]) -> int:
        """Hand out up to `most` tasks of `flow`; fills `reasons` with why lanes of it may not go."""
        most = min(most, self._ledger.key_room(flow.key, now))
        if most <= 0:
            return 0
        shared: list[Waiting] = []
        apart: list[tuple[Waiting, int, str]] = []
        for waiting in flow.lanes.values():
            if waiting.count <= waiting.planned:
                continue
            lane = waiting.lane
            ability = self._capability.of(lane)
            if ability.serves is Serves.NONE:
                continue
            limited = self._ledger.limits_task(lane.task)
            room = self._ledger.task_room(lane.task, now) if limited else UNLIMITED
            if room <= 0:
                reasons.append(lane.task)
                continue
            worker = ""
            if ability.serves is Serves.SOME:
                best = hand.best_of(ability)
                if best is None:
                    reasons.append(ability)
                    continue
                worker = best
                room = min(room, hand.direct_room(worker))
            if limited or worker:
                apart.append((waiting, min(room, waiting.count - waiting.planned), worker))
            else:
                shared.append(waiting)
        if not apart:
            count = self._hand_shared(flow, shared, most, hand)
        else:
            count = self._hand_in_turn(flow, shared, apart, most, now, hand)
        if count:
            flow.turn += 1
        return count

    def _hand_shared(self, flow: Flow, shared: list[Waiting], most: int, hand: _Hand) -> int:
        return hand.merge(flow, shared, most, self._ledger) if shared else 0

    def _hand_in_turn(
        self,
        flow: Flow,
        shared: list[Waiting],
        apart: list[tuple[Waiting, int, str]],
        most: int,
        now: float,
        hand: _Hand,
    ) -> int:
        """Let the groups of a key take turns: its lanes that go together, and each that goes apart."""
        groups = len(apart) + 1
        left = most
        for step in range(groups):
            if left <= 0:
                break
            part = -(-left // (groups - step))
            which = (flow.turn + step) % groups
            if which == len(apart):
                left -= self._hand_shared(flow, shared, part, hand)
                continue
            waiting, room, worker = apart[which]
            # A neighbour of the same function or worker may have taken the room by now.
            room = min(room, part, self._ledger.task_room(waiting.lane.task, now))
            if worker:
                room = min(room, hand.direct_room(worker))
            if room > 0:
                hand.apart(waiting, room, worker, self._ledger)
                left -= room
        return most - left

    def _unplan(self, turn: Turn) -> None:
        lane = turn.lanes[0]
        level = self._backlog.levels(lane.queue).get(lane.priority)
        flow = level.flows.get(lane.key) if level is not None else None
        if flow is None or level is None:
            return
        if turn.apart:
            waiting = flow.lanes.get(lane.number)
            if waiting is not None:
                waiting.planned = max(0, waiting.planned - turn.count)
        else:
            flow.planned = max(0, flow.planned - turn.count)
        level.wake(flow)


class _Hand:
    """The turns of one plan."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._direct: dict[str, int] = {}
        self._merged: dict[int, tuple[tuple[Lane, ...], int]] = {}
        self._turns: dict[tuple[int, str], tuple[tuple[Lane, ...], int, bool]] = {}

    def direct_room(self, worker: str) -> int:
        """How many more tasks may go to a worker's direct queue after what this plan sends there."""
        room = self._direct.get(worker)
        if room is None:
            room = self._direct[worker] = self._rooms.direct_room(worker)
        return room

    def best_of(self, ability: Ability) -> str | None:
        """Of the capable workers the one with most room, or None when none has any."""
        best = max(ability.workers, key=self.direct_room, default=None)
        return best if best is not None and self.direct_room(best) > 0 else None

    def apart(self, waiting: Waiting, count: int, worker: str, ledger: Ledger) -> None:
        """Hand out `count` tasks of a lane by itself."""
        waiting.planned += count
        self._add((waiting.lane,), count, worker, ledger, apart=True)
        if worker:
            self._direct[worker] -= count

    def merge(self, flow: Flow, shared: list[Waiting], most: int, ledger: Ledger) -> int:
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
        self._add(lanes, count, "", ledger, apart=False)
        return count

    def _add(self, lanes: tuple[Lane, ...], count: int, worker: str, ledger: Ledger, *, apart: bool) -> None:
        ledger.take(lanes[0], count)
        place = (lanes[0].number, worker)
        before = self._turns.get(place)
        self._turns[place] = (lanes, count + (before[1] if before is not None else 0), apart)

    def __bool__(self) -> bool:
        return bool(self._turns)

    def turns(self) -> list[Turn]:
        """The turns in the order in which they were first given."""
        return [Turn(lanes, count, worker, apart) for (_, worker), (lanes, count, apart) in self._turns.items()]

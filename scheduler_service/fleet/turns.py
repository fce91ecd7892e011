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
from typing import Final

from scheduler_service.fleet.ageing import in_order
from scheduler_service.fleet.backlog import OVERFLOW, Backlog
from scheduler_service.fleet.capability import Ability, Capability, Serves
from scheduler_service.fleet.fairness import FairQueue, Flow, Waiting
from scheduler_service.fleet.hand import ExpressHand, Hand, Turn
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import UNLIMITED, Ledger
from scheduler_service.fleet.rooms import Rooms

PARTS: Final = 64
"""Where several flows wait, a plan gives each a 64th of the room at a time, at least one task."""


LOOKS: Final = 2000
"""How many flows that turn out not to be able to go a plan looks at, or keys whose limit has let go: about 5 ms."""


class Turns:
    """Decides about turns.

    Args:
        backlog: what is queued.
        ledger: what each may have.
        capability: who can run what.
        rooms: where there is room; it asks `runnable` for what waits.
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
        hand = Hand(self._rooms.direct_room, self._ledger)
        while queues:
            barren = self._plan_queues(queues, now, wall, most, hand)
            if hand or not barren:
                break
            # They had the places, and nothing of them may go after all: then others have them.
            queues = [queue for queue in queues if queue not in barren]
        return hand.turns()

    def _plan_queues(self, queues: Sequence[str], now: float, wall: float, most: int, hand: Hand) -> set[str]:
        """Fill the room of each queue; returns those that have some and nothing to fill it with."""
        barren = set()
        for queue, given in self._rooms.rooms(queues, now).items():
            levels = self._backlog.levels(queue)
            credit = self._rooms.credit(queue, now)
            for level in levels.values():
                level.credit = credit
            express = self._plan_express(queue, now, wall, most, hand)
            room = min(given - express, most, self._ledger.queue_room(queue, now)) if given > express else 0
            if room <= 0:
                continue
            whole = room
            for level in in_order(levels, self._ledger.ageing(queue), wall):
                room -= self._plan_level(level, room, now, hand)
                if room <= 0:
                    break
            if room == whole and not express:
                barren.add(queue)
        return barren

    def _plan_express(self, queue: str, now: float, wall: float, most: int, hand: Hand) -> int:
        """Hand out past the window what would go next, as far as its key came anew and it would wait in the broker.

        Of the first priority of which anything may go, and only if no higher one waits in the broker.
        """
        levels = self._backlog.levels(queue)
        if not any(level.first_ahead() for level in levels.values()):
            return 0
        for level in in_order(levels, self._ledger.ageing(queue), wall):
            flow = level.first_ahead()
            if flow is not None:
                express = hand.express(self._rooms.express(queue, flow.priority, now))
                room = min(express.room, most, self._ledger.queue_room(queue, now))
                return self._hand_express(level, room, now, express)
            if level.going or self._passed(level, now, hand):
                break
        return 0

    def _hand_express(self, level: FairQueue, room: int, now: float, hand: ExpressHand) -> int:
        part = max(1, room // PARTS)
        left = room
        while left > 0:
            flow = level.first_ahead()
            if flow is None:
                break
            count = self._give(level, flow, min(part, left, flow.ahead), now, hand)
            if not count:
                break
            left -= count
        return room - left

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

    def admit_express(self, lane: Lane, count: int, now: float) -> list[str]:
        """The same past the window (`express`): of `count` new tasks, the worker of each one that may go at once.

        As a plan would send them had they waited. Only tasks with a key: the others are not stored with a worker.
        """
        levels = self._backlog.levels(lane.queue)
        level = levels.get(lane.priority)
        if level is None or lane.key in ("", OVERFLOW) or self._capability.of(lane).serves is not Serves.ALL:
            return []
        self._look(now)
        others = {priority: each for priority, each in levels.items() if priority != lane.priority}
        if self._would_overtake(lane, others, now):
            return []
        count = min(count, level.ahead_of_all(lane.key), self._ledger.allowed(lane, now))
        if count <= 0:
            return []
        rooms = self._rooms.express(lane.queue, lane.priority, now)
        workers = list(Hand(self._rooms.direct_room, self._ledger).express(rooms).spread(count))
        if workers:
            self._ledger.take(lane, len(workers))
            level.pass_by(lane.key, len(workers))
        return workers

    def admitted(self, lane: Lane, stored: int, unused: int, now: float) -> None:
        """Of what was let go, `stored` were committed and are published now, `unused` were not needed."""
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

    def _passed(self, level: FairQueue, now: float, hand: Hand | None = None) -> list[Hashable]:
        """The reasons under which flows are parked that have passed."""
        if not level.reasons:
            return []
        hand = hand or Hand(self._rooms.direct_room, self._ledger)
        return [
            reason
            for reason in level.reasons
            if (
                hand.best_of(reason) is not None
                if isinstance(reason, Ability)
                else self._ledger.task_room(str(reason), now) > 0
            )
        ]

    def _plan_level(self, level: FairQueue, room: int, now: float, hand: Hand) -> int:
        passed = self._passed(level, now, hand)
        part = room if level.going <= 1 and not passed else max(1, room // PARTS)
        left = room
        looks = LOOKS
        while left > 0:
            flow = level.first(passed)
            if flow is None:
                break
            count = self._give(level, flow, min(part, left), now, hand)
            left -= count
            if not count:
                looks -= 1
                if looks <= 0:
                    self._unfinished = True
                    break
                passed = self._passed(level, now, hand) if passed else passed
        return room - left

    def _give(self, level: FairQueue, flow: Flow, most: int, now: float, hand: Hand) -> int:
        """Hand out up to `most` tasks of `flow`; when none of them may go it is parked."""
        reasons: list[Hashable] = []
        count = self._serve(flow, most, now, hand, reasons)
        if count:
            level.charge(flow, count)
        else:
            level.park(flow, reasons)
        return count

    def _serve(self, flow: Flow, most: int, now: float, hand: Hand, reasons: list[Hashable]) -> int:
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

    def _hand_shared(self, flow: Flow, shared: list[Waiting], most: int, hand: Hand) -> int:
        return hand.merge(flow, shared, most) if shared else 0

    def _hand_in_turn(
        self,
        flow: Flow,
        shared: list[Waiting],
        apart: list[tuple[Waiting, int, str]],
        most: int,
        now: float,
        hand: Hand,
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
                hand.apart(waiting, room, worker)
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

"""How many more tasks may go: the window of each queue, the part of it that is free, and what may go past it.

Each part says something of it::

    directory, flights: slots that are live or held -> shares: what is due to a queue -+
    pace: completion rate, run time, path time ----------------------------------------+-> window - what is out = room

A queue that has workers to itself has its window (`window`). Queues that share workers have their slots and leads
together, and who is furthest behind is given what is free of them (`places`).

What goes while no more is out than slots goes *straight*: it waits in the broker for nothing. So it tells how long the
path is; and only when more is out does anything go past the window (`express`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from scheduler_service.fleet.directory import Directory, Worker, is_serving
from scheduler_service.fleet.express import HORIZON, MOST, Express
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.pace import Pace
from scheduler_service.fleet.places import Claim, connected, hand_out
from scheduler_service.fleet.quotas import UNLIMITED
from scheduler_service.fleet.rates import SLOT, Path
from scheduler_service.fleet.shares import Group, Shares
from scheduler_service.fleet.window import Window, keyed_horizon, window

SHORTEST: Final = 1e-6
"""Seconds that a task counts for at least, until it is over."""
_EPSILON: Final = 1e-9


class Rooms:
    """The windows of the queues, and the room in them.

    Args:
        directory: the live workers.
        flights: what is out; is told what goes straight to a slot.
        pace: what was learned from what came back.
        shares: what is due to queues that share workers.
        express: what workers may be sent past the windows.
        limit: the most tasks that one window may hold.
        runnable: how many queued tasks of a queue may go at a moment (monotonic seconds).
        keyed: whether tasks with a fairness key wait in a queue.
    """

    def __init__(
        self,
        directory: Directory,
        flights: Flights,
        pace: Pace,
        shares: Shares,
        express: Express,
        limit: int,
        *,
        runnable: Callable[[str, float], int],
        keyed: Callable[[str], bool],
    ) -> None:
        self._directory = directory
        self._flights = flights
        self._pace = pace
        self._shares = shares
        self._express = express
        self._limit = limit
        self._runnable = runnable
        self._keyed = keyed
        self._out = flights.by_queue
        self._open_slots: dict[str, int] = {}
        self._ahead: set[str] = set()

    def window(self, queue: str, now: float) -> Window:
        """The window of `queue` at `now` (monotonic seconds), were there enough tasks in it."""
        groups = self._groups((queue,))
        path = self._pace.path(_queues_of(groups, (queue,)), now)
        return self._window(queue, self._peek(queue, groups, now), groups, path, now)

    def room(self, queue: str, now: float, asking: int = UNLIMITED) -> int:
        """How many more tasks of `queue` may be dispatched, at most `asking`.

        Args:
            queue: the queue.
            now: monotonic seconds.
            asking: how many want to go; those of other queues that wait have their share.
        """
        return min(asking, self.rooms((queue,), now, asking)[queue])

    def rooms(self, queues: Sequence[str], now: float, asking: int = 0) -> dict[str, int]:
        """How many more tasks of each of these queues may be dispatched, all of them together.

        Args:
            queues: those in which tasks wait, or want to go.
            now: monotonic seconds.
            asking: how many want to go in each that are not counted as waiting.
        """
        groups = self._groups(queues)
        sharing = _queues_of(groups, queues)
        if len(sharing) == 1:
            (queue,) = sharing
            window = self._window(queue, self._undivided(groups), groups, self._pace.path(sharing, now), now)
            self._flights.straight[queue] = window.tasks - window.lead
            self._ahead.discard(queue)
            return {queue: 0 if queue in self._flights.paused else max(0, window.tasks - self._out.get(queue, 0))}
        demands = {queue: self._demand(queue, groups, now) for queue in sharing}
        if asking:
            demands |= {queue: demands[queue] + asking for queue in queues}
            shares = self._shares.peek(groups, demands)
        else:
            shares = self._shares.divide(groups, demands, now)
        if not asking:
            demands |= {queue: self._out.get(queue, 0) for queue in sharing.difference(queues)}
        paths = self._look_at_paths(groups, now)
        claims = [
            self._claim(queue, demands[queue], shares.get(queue, 0.0), groups, paths.get(queue, Path()), now)
            for queue in sharing
        ]
        self._ahead -= sharing
        self._ahead |= {claim.queue for claim in claims if claim.lag < -claim.share * max(claim.run, HORIZON)}
        given = hand_out(claims, groups)
        return {queue: 0 if queue in self._flights.paused else given[queue] for queue in queues}

    def direct_room(self, worker: str) -> int:
        """How many more tasks may be sent to the direct queue of `worker`."""
        known = self._directory.workers.get(worker)
        if known is None or not is_serving(known):
            return 0
        return max(0, known.beat.slots - self._flights.direct(worker))

    def express(self, queue: str, priority: int, now: float) -> Mapping[str, int]:
        """How many tasks of `queue` may be sent past its window to which worker, by its direct queue.

        None where nothing waits in the broker, or what does has a higher priority; nor of a queue that shares workers
        with others and is ahead of its share of them.
        """
        waiting = self._out.get(queue, 0) - self._flights.straight.get(queue, 0)
        if waiting <= 0 or queue in self._flights.paused or queue in self._ahead:
            return {}
        if self._flights.has_higher(queue, priority, waiting):
            return {}
        rooms = self._express.rooms(queue, now)
        # Where label-bound tasks fill the slots, they fill what an older worker takes from its direct queue.
        return {worker: room for worker, room in rooms.items() if self.direct_room(worker) > 0}

    def credit(self, queue: str, now: float) -> int:
        """How many tasks of `queue` a key that comes anew has ahead of the others: a turn for each live slot.

        And as many as go by express, so that they are enough where slots are few and tasks short.
        """
        return self._open_slots.get(queue, 0) + int(min(self._pace.per_second(queue, now) * HORIZON, MOST))

    def _look_at_paths(self, groups: list[Group], now: float) -> dict[str, Path]:
        """The path of each queue, which it has in common with all that share workers with it, also through others.

        What is sent next has waited for nothing if they have no more out than slots, with that.
        """
        paths: dict[str, Path] = {}
        for numbers in connected(groups):
            queues = _queues_of([groups[number] for number in numbers])
            free = sum(groups[number].slots for number in numbers) - sum(self._out.get(queue, 0) for queue in queues)
            self._flights.straight.update({queue: free + self._out.get(queue, 0) for queue in queues})
            paths |= dict.fromkeys(queues, self._pace.path(queues, now))
        return paths

    def _window(self, queue: str, share: float, groups: list[Group], path: Path, now: float) -> Window:
        mine = [group for group in groups if queue in group.queues]
        live = self._open_slots[queue] = sum(group.open for group in mine)
        completions = self._pace.per_slot(queue, now)
        horizon = keyed_horizon(completions) if self._keyed(queue) else SLOT
        return window(
            slots=min(math.ceil(share - _EPSILON), max(self._limit, live)),
            share=share,
            workers=sum(group.workers for group in mine),
            completions=completions,
            expected_run=self._pace.expected_in(queue),
            path=0.0 if path.probed else path.seconds,
            limit=self._limit,
            horizon=0.0 if path.probed else horizon,
        )

    def _claim(self, queue: str, demand: float, share: float, groups: list[Group], path: Path, now: float) -> Claim:
        window = self._window(queue, share, groups, path, now)
        out = self._out.get(queue, 0)
        return Claim(
            queue=queue,
            share=share,
            lead=window.beyond,
            lag=self._shares.lag(queue),
            out=out,
            wants=int(demand) - out,
            most=window.tasks - window.lead + round(2 * window.beyond),
            run=max(self._pace.expected_in(queue), SHORTEST),
            probed=path.probed,
        )

    def _groups(self, queues: Sequence[str]) -> list[Group]:
        """The workers that serve one of `queues`, or another queue with one that does."""
        groups: dict[frozenset[str], Group] = {}
        for worker in self._directory.workers.values():
            if worker.gone_since is not None:
                continue
            served = worker.queues
            group = groups.get(served)
            if group is None:
                group = groups[served] = Group(served, 0)
            group.slots += self._slots_of(worker)
            if is_serving(worker):
                group.open += worker.beat.slots
                group.workers += 1
        reached = set(queues)
        for served in groups:
            if not reached.isdisjoint(served):
                reached |= served
        return [group for served, group in groups.items() if not reached.isdisjoint(served)]

    def _slots_of(self, worker: Worker) -> int:
        # One that takes no more, or less than it did, still holds what it runs: others must not lose slots by that.
        beat = worker.beat
        slots, most, held = (
            (beat.slots, beat.capacity, worker.running)
            if is_serving(worker)
            else (0, len(worker.leases), worker.leases)
        )
        if len(held) <= slots or most <= slots:
            return slots
        flights = self._flights.by_lease
        return max(slots, min(most, sum(lease in flights for lease in held)))

    def _demand(self, queue: str, groups: list[Group], now: float) -> float:
        if queue in self._flights.paused or not any(group.workers for group in groups if queue in group.queues):
            return 0
        return self._out.get(queue, 0) + self._runnable(queue, now)

    def _peek(self, queue: str, groups: list[Group], now: float) -> float:
        sharing = _queues_of(groups)
        if sharing <= {queue}:
            return self._undivided(groups)
        demands = {other: self._demand(other, groups, now) for other in sharing}
        demands[queue] = float("inf")
        return self._shares.peek(groups, demands).get(queue, 0.0)

    @staticmethod
    def _undivided(groups: list[Group]) -> float:
        return sum(group.slots for group in groups)


def _queues_of(groups: Iterable[Group], queues: Iterable[str] = ()) -> set[str]:
    return {queue for group in groups for queue in group.queues}.union(queues)

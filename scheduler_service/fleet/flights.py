"""What is dispatched and not yet answered, and the room that is left in each window."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from common.ids import new_leases
from common.questions import Progress
from common.wire import Isolation
from scheduler_service.fleet.directory import Directory, Worker, is_serving
from scheduler_service.fleet.express import HORIZON, MOST, Express, Line
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.places import Claim, connected, hand_out
from scheduler_service.fleet.quotas import UNLIMITED
from scheduler_service.fleet.rates import SLOT, CompletionRate, Path, PathTime, RunTimes, path_of
from scheduler_service.fleet.shares import Group, Shares
from scheduler_service.fleet.window import Window, keyed_horizon, window
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.tasks import Placement

FUNCTIONS = 10_000
"""Functions whose run times are remembered; client-chosen names beyond that share one entry."""

LANES = 20_000
"""Lanes that are remembered, so that the flights of one lane share it."""
SHORTEST = 1e-6
"""Seconds that a task counts for at least, until it is over."""
_EPSILON = 1e-9


class Flight(Struct, gc=False):
    """One dispatched task.

    Attributes:
        id, name, queue, lease, attempt: the task and its dispatch.
        lane: where it waited.
        worker: the only worker that it went to; empty: to the work queue of its queue.
        number: the dispatch number.
        dispatched_at: monotonic seconds.
        confirmed: the broker has confirmed its bundle.
        isolation: how it is run.
        adopted: it was dispatched before this process knew of it; when, is not known.
        copied: it may have been published more than once, so that two workers may have it.
        cancelled: its task is over; it is out until its worker gives it back, or nobody has it any more.
        progress: how far it is, as its worker said last.
        straight: when it was dispatched there was a slot for it, so it has waited in the broker for nothing.
        express: it went past the window, and starts before what came to its worker otherwise.
    """

    id: str
    name: str
    queue: str
    lease: str
    attempt: int
    number: int
    dispatched_at: float
    confirmed: bool = False
    isolation: Isolation = Isolation.NONE
    adopted: bool = False
    copied: bool = False
    cancelled: bool = False
    progress: Progress | None = None
    lane: Lane | None = None
    worker: str = ""
    straight: bool = False
    express: bool = False


class Flights:
    """The tasks that are out, by lease, and what was learned from those that came back.

    Args:
        directory: the live workers.
        limit: the most tasks that one window may hold.
        landed: given a lane, and how many of its dispatches are over.
    """

    def __init__(
        self, directory: Directory, limit: int, *, landed: Callable[[Lane, int], None] = lambda lane, count: None
    ) -> None:
        self._directory = directory
        self._limit = limit
        self._landed = landed
        self._direct: dict[str, int] = defaultdict(int)
        self._shares = Shares(lambda queue: 1.0)
        self._runnable: Callable[[str, float], int] = lambda queue, now: 0
        self._keyed: Callable[[str], bool] = lambda queue: False
        self._lanes: dict[int, Lane] = {}
        self.by_lease: dict[str, Flight] = {}
        self._out: dict[str, int] = defaultdict(int)
        self._rates: dict[str, CompletionRate] = defaultdict(CompletionRate)
        self._paths: dict[str, PathTime] = defaultdict(PathTime)
        self._straight: dict[str, int] = {}
        self._open_slots: dict[str, int] = {}
        self._ahead: set[str] = set()
        self._lines: dict[str, Line] = defaultdict(Line)
        self.express_to = Express(directory)
        """What workers may be sent past the windows; to be told what they have finished."""
        self._runs: dict[str, RunTimes] = {}
        self._names: dict[str, str] = {}
        self._number = 0
        self._open: dict[int, None] = {}
        self._doubtful: set[int] = set()
        self.paused: set[str] = set()
        """Queues whose dispatch waits until what was lost there is known."""

    def start_from(self, number: int) -> None:
        """Number dispatches from the one after `number`."""
        self._number = max(self._number, number)

    @property
    def next_number(self) -> int:
        """The number of the next dispatch."""
        return self._number + 1

    def share_by(
        self, weigh: Callable[[str], float], runnable: Callable[[str, float], int], keyed: Callable[[str], bool]
    ) -> None:
        """Say how queues that share workers share them.

        Args:
            weigh: the weight of a queue.
            runnable: how many of its queued tasks may go at a moment.
            keyed: whether tasks with a fairness key wait in it.
        """
        self._shares = Shares(weigh)
        self._runnable = runnable
        self._keyed = keyed

    def window(self, queue: str, now: float) -> Window:
        """The window of `queue` at `now` (monotonic seconds), were there enough tasks in it."""
        groups = self._groups((queue,))
        path = self._path(_queues_of(groups, (queue,)), now)
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
            window = self._window(queue, self._undivided(groups), groups, self._path(sharing, now), now)
            self._straight[queue] = window.tasks - window.lead
            self._ahead.discard(queue)
            return {queue: 0 if queue in self.paused else max(0, window.tasks - self._out.get(queue, 0))}
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
        return {queue: 0 if queue in self.paused else given[queue] for queue in queues}

    def direct_room(self, worker: str) -> int:
        """How many more tasks may be sent to the direct queue of `worker`."""
        known = self._directory.workers.get(worker)
        if known is None or not is_serving(known):
            return 0
        return max(0, known.beat.slots - self._direct[worker])

    def express(self, queue: str, priority: int, now: float) -> Mapping[str, int]:
        """How many tasks of `queue` may be sent past its window to which worker, by its direct queue.

        None where nothing waits in the broker, or what does has a higher priority; nor of a queue that shares workers
        with others and is ahead of its share of them.
        """
        waiting = self._out.get(queue, 0) - self._straight.get(queue, 0)
        if waiting <= 0 or queue in self.paused or queue in self._ahead:
            return {}
        return {} if self._lines[queue].has_higher(priority, waiting) else self.express_to.rooms(queue, now)

    def credit(self, queue: str, now: float) -> int:
        """How many tasks of `queue` a key that comes anew has ahead of the others: a turn for each live slot.

        And as many as go by express, so that they are enough where slots are few and tasks short.
        """
        return self._open_slots.get(queue, 0) + int(min(self._rates[queue].per_second(now) * HORIZON, MOST))

    def _path(self, queues: Collection[str], now: float) -> Path:
        times = [self._paths[queue] for queue in queues if queue in self._paths]
        return path_of(times, now, shared=len(queues) > 1)

    def _look_at_paths(self, groups: list[Group], now: float) -> dict[str, Path]:
        """The path of each queue, which it has in common with all that share workers with it, also through others.

        What is sent next has waited for nothing if they have no more out than slots, with that.
        """
        paths: dict[str, Path] = {}
        for numbers in connected(groups):
            queues = _queues_of([groups[number] for number in numbers])
            free = sum(groups[number].slots for number in numbers) - sum(self._out.get(queue, 0) for queue in queues)
            self._straight |= {queue: free + self._out.get(queue, 0) for queue in queues}
            paths |= dict.fromkeys(queues, self._path(queues, now))
        return paths

    def _window(self, queue: str, share: float, groups: list[Group], path: Path, now: float) -> Window:
        mine = [group for group in groups if queue in group.queues]
        live = self._open_slots[queue] = sum(group.open for group in mine)
        completions = self._rates[queue].per_slot(now)
        horizon = keyed_horizon(completions) if self._keyed(queue) else SLOT
        return window(
            slots=min(math.ceil(share - _EPSILON), max(self._limit, live)),
            share=share,
            workers=sum(group.workers for group in mine),
            completions=completions,
            expected_run=self._expected_in(queue),
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
            run=max(self._expected_in(queue), SHORTEST),
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
        return max(slots, min(most, sum(lease in self.by_lease for lease in held)))

    def _demand(self, queue: str, groups: list[Group], now: float) -> float:
        if queue in self.paused or not any(group.workers for group in groups if queue in group.queues):
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

    def out(self, queue: str) -> int:
        """How many tasks of `queue` are out or reserved."""
        return self._out[queue]

    def queues(self) -> list[str]:
        """The queues that have or had tasks out."""
        return list(self._out)

    def expected_run(self, name: str) -> float:
        """Seconds that the function `name` is expected to run."""
        return self._times(name).expected

    def reserve(self, queue: str, count: int, priority: int = 0, express: str = "") -> list[Placement]:
        """Take room for `count` tasks of one priority; give back what is not used with `release`.

        Args:
            queue: their queue.
            count: how many.
            priority: theirs.
            express: the worker to which they go by express; empty: they do not.
        """
        if express:
            self.express_to.taken(express, count)
        self._out[queue] += count
        self._lines[queue].add(priority, count)
        first = self._number + 1
        self._number += count
        numbers = range(first, first + count)
        self._open.update(dict.fromkeys(numbers))
        return [Placement(lease, number, express) for lease, number in zip(new_leases(count), numbers, strict=True)]

    def release(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room that was reserved and not used."""
        self._drop(queue, placements)
        for placement in placements:
            self._open.pop(placement.number, None)

    def doubt(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room whose transaction may or may not have been committed.

        The numbers stay open until the store has been asked (`adopt`, `settle_doubts`): the mark must not pass them.
        """
        self._drop(queue, placements)
        self._doubtful.update(placement.number for placement in placements)

    def _drop(self, queue: str, placements: Sequence[Placement]) -> None:
        self._out[queue] -= len(placements)
        self._lines[queue].drop(len(placements))
        for placement in placements:
            if placement.express:
                self.express_to.landed(placement.express)

    def doubts(self) -> frozenset[int]:
        """The numbers that are in doubt now."""
        return frozenset(self._doubtful)

    def settle_doubts(self, numbers: frozenset[int]) -> None:
        """These numbers have been looked for in the store, and what was found is adopted."""
        flying = {flight.number for flight in self.by_lease.values()}
        for number in numbers - flying:
            self._open.pop(number, None)
        self._doubtful -= numbers

    def launch(self, claimed: Iterable[ClaimedTask], now: float) -> None:
        """Dispatches whose transaction was committed: from here they are out."""
        for task in claimed:
            assignment = task.assignment
            # Room was reserved, so this one is among those that are out.
            straight = self._out[task.queue] <= self._straight.get(task.queue, 0)
            self.by_lease[assignment.lease] = Flight(
                assignment.id,
                assignment.task,
                task.queue,
                assignment.lease,
                assignment.attempt,
                task.number,
                now,
                False,
                assignment.isolation,
                lane=self._lane(task),
                worker=task.worker,
                straight=straight,
                express=task.express,
            )
            if task.worker and not task.express:
                self._direct[task.worker] += 1

    def adopt(self, claimed: Sequence[ClaimedTask], confirmed_up_to: int, now: float) -> list[ClaimedTask]:
        """Take over dispatched tasks found in the store.

        Returns:
            Those that have to be published (again, with the same lease), because the broker may not have them.
        """
        strays = [task for task in claimed if task.assignment.lease not in self.by_lease]
        self.launch(strays, now)
        unsure = []
        for task in strays:
            self.by_lease[task.assignment.lease].adopted = True
            self._out[task.queue] += 1
            self._lines[task.queue].add(task.priority)
            self._number = max(self._number, task.number)
            if task.number > confirmed_up_to:
                self._open[task.number] = None
                self.by_lease[task.assignment.lease].copied = True
                unsure.append(task)
            else:
                self.by_lease[task.assignment.lease].confirmed = True
        # A stray may have a lower number than those that are open: the mark must not pass it.
        self._open = dict.fromkeys(sorted(self._open))
        return unsure

    def retain(self, claimed: Iterable[ClaimedTask], now: float) -> None:
        """Land what is not among `claimed`, all that is out in the store: its end was committed, and nobody heard."""
        leases = {task.assignment.lease for task in claimed}
        for lease in self.by_lease.keys() - leases:
            if not self.by_lease[lease].cancelled:
                self.land(lease, now)

    def cancel(self, leases: Iterable[str]) -> None:
        """The tasks that are out with these leases are over; their workers are being told."""
        for lease in leases:
            flight = self.by_lease.get(lease)
            if flight is not None:
                flight.cancelled = True

    def progress(self, reported: Mapping[str, Progress]) -> None:
        """How far tasks are, by lease; of what is not out nothing is kept."""
        for lease, progress in reported.items():
            flight = self.by_lease.get(lease)
            if flight is not None:
                flight.progress = progress

    def copy(self, lease: str) -> bool:
        """The dispatch is about to be published again; False when it is over, and need not be."""
        flight = self.by_lease.get(lease)
        if flight is None:
            return False
        flight.copied = True
        return True

    def confirm(self, leases: Iterable[str]) -> None:
        """The broker has confirmed the bundle with these leases."""
        for lease in leases:
            flight = self.by_lease.get(lease)
            if flight is not None:
                flight.confirmed = True
                self._open.pop(flight.number, None)

    @property
    def confirmed_up_to(self) -> int:
        """Every dispatch up to this number is in the broker, answered, or was never used."""
        return next(iter(self._open), self._number + 1) - 1

    def land(self, lease: str, now: float, run_seconds: float | None = None) -> None:
        """A dispatch is over.

        Args:
            lease: its lease.
            now: monotonic seconds.
            run_seconds: how long it ran, when it completed.
        """
        if run_seconds is not None:
            self.land_all([(lease, run_seconds)], now)
            return
        flight = self.by_lease.pop(lease, None)
        if flight is not None:
            self._leave(flight)
            if flight.lane is not None:
                self._landed(flight.lane, 1)

    def land_all(self, completed: Iterable[tuple[str, float]], now: float) -> None:
        """Dispatches have completed: (lease, run time in seconds) of each."""
        runs: dict[tuple[str, str], list[float]] = defaultdict(list)
        lanes: dict[int, tuple[Lane, int]] = {}
        least: dict[str, float] = {}
        flights, leave = self.by_lease, self._leave
        for lease, run_seconds in completed:
            flight = flights.pop(lease, None)
            if flight is None:
                continue
            leave(flight)
            queue, lane = flight.queue, flight.lane
            if lane is not None:
                lanes[lane.number] = (lane, lanes[lane.number][1] + 1 if lane.number in lanes else 1)
            runs[queue, flight.name].append(run_seconds)
            if flight.straight and not flight.adopted:
                path = max(0.0, now - flight.dispatched_at - run_seconds)
                if path < least.get(queue, math.inf):
                    least[queue] = path
        for lane, count in lanes.values():
            self._landed(lane, count)
        for (queue, name), seconds in runs.items():
            self._learn(queue, name, seconds, now)
        for queue, path in least.items():
            self._paths[queue].add(path, now)

    def _leave(self, flight: Flight) -> None:
        self._out[flight.queue] -= 1
        self._open.pop(flight.number, None)
        if flight.express:
            self.express_to.landed(flight.worker)
        elif flight.worker:
            self._direct[flight.worker] -= 1
            if not self._direct[flight.worker]:
                del self._direct[flight.worker]

    def _learn(self, queue: str, name: str, runs: Sequence[float], now: float) -> None:
        self._shares.used(queue, sum(runs))
        self._rates[queue].add(len(runs), now)
        self._times(name).extend(runs)
        self._names[queue] = name

    def _lane(self, task: ClaimedTask) -> Lane:
        lane = self._lanes.get(task.lane)
        if lane is None:
            if len(self._lanes) >= LANES:
                self._lanes.clear()
            lane = Lane(task.lane, task.queue, task.priority, task.assignment.task, task.key)
            self._lanes[task.lane] = lane
        return lane

    def _expected_in(self, queue: str) -> float:
        name = self._names.get(queue)
        return self._times(name).expected if name is not None else RunTimes().expected

    def _times(self, name: str) -> RunTimes:
        times = self._runs.get(name)
        if times is None:
            if len(self._runs) >= FUNCTIONS:
                name = "other"
            times = self._runs.setdefault(name, RunTimes())
        return times


def _queues_of(groups: Iterable[Group], queues: Iterable[str] = ()) -> set[str]:
    return {queue for group in groups for queue in group.queues}.union(queues)

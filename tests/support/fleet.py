"""A fleet under a fake clock: the parts that decide about turns are real, and the rest is as simple as it can be.

Events happen in the order of their time. The store is a list for each lane, and a real table of what rates have used
up; the broker hands a task to a worker when one of its slots is free, express ones first; a path takes a millisecond in
each direction. The scheduler may be restarted, and the wall clock set. Each run is the same again.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

from sqlalchemy import Connection, StaticPool, create_engine

from common.quotas import Quota, Scope
from common.wire import Assignment, Beat
from scheduler_service.fleet.backlog import Backlog, Found
from scheduler_service.fleet.capability import Capability
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.express import Express
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.hand import Turn
from scheduler_service.fleet.lanes import Lane, lane
from scheduler_service.fleet.pace import Pace
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.fleet.shares import Shares
from scheduler_service.fleet.turns import Turns
from scheduler_service.operations.moving import note_dispatched
from scheduler_service.storage import quotas
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.schema import recent
from scheduler_service.storage.tasks import Placement

PATH = 0.001
START = 1000.0
EPOCH = 1_700_000_000.0
"""What the wall clock is ahead of the other one at first."""


@dataclass(eq=False)
class Job:
    """A task: where it waits, how long it runs on a worker of speed 1, and what became of it when."""

    lane: Lane
    wanted: Lane
    run: float
    seq: int
    submitted: float
    sent: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    by: str = ""
    express: bool = False

    @property
    def waited(self) -> float:
        """Seconds from its submission to its start."""
        return self.started - self.submitted


@dataclass(eq=False)
class Machine:
    """A worker: `speed` 0.5 takes twice as long."""

    name: str
    queues: tuple[str, ...]
    slots: int
    speed: float = 1.0
    busy: int = 0
    functions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    own: deque[Job] = field(default_factory=deque)
    express: deque[Job] = field(default_factory=deque)


class Fleet:
    """A scheduler, a broker and workers.

    Args:
        max_lanes: as in the settings.
        path: seconds that messages take in each direction.
    """

    def __init__(self, max_lanes: int = 10_000, path: float = PATH) -> None:
        self.now = START
        self.path = path
        self.max_lanes = max_lanes
        self.wall_ahead = EPOCH
        self.up = True
        self.quotas: dict[tuple[Scope, str], Quota] = {}
        self._unheard: list[tuple[Job, float]] = []
        self._out: dict[int, ClaimedTask] = {}
        # Any thread may collect a fleet, and closes the connection then.
        engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
        recent.create(engine)
        self._store = engine.connect()
        weakref.finalize(self, _close, self._store)
        self._build()
        self.stored: dict[int, deque[Job]] = defaultdict(deque)
        self.work: dict[str, deque[Job]] = defaultdict(deque)
        self.machines: list[Machine] = []
        self.done: list[Job] = []
        self.sent: list[Job] = []
        self.used: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = count()
        self._pumping_at = 0.0

    def _build(self) -> None:
        self.directory = Directory(1e9)
        self.ledger = Ledger()
        self.backlog = Backlog(self.max_lanes, self.ledger.limits, self.ledger.weight_of_key)
        self.express = Express(self.directory)
        pace, shares = Pace(), Shares(self.ledger.weight_of_queue)
        self.flights = Flights(pace, self.express, landed=self.ledger.landed, used=shares.used)
        self.rooms = Rooms(
            self.directory,
            self.flights,
            pace,
            shares,
            self.express,
            5000,
            runnable=lambda queue, now: self.turns.runnable(queue, now),
            keyed=self.backlog.keyed,
        )
        self.turns = Turns(self.backlog, self.ledger, Capability(self.directory), self.rooms)

    @property
    def wall(self) -> float:
        """What the wall clock says."""
        return self.wall_ahead + self.now

    def limit(self, scope: Scope, name: str, **what: Any) -> None:
        """An operator sets a quota."""
        quota = self.quotas[scope, name] = Quota(scope=scope, name=name, **what)
        self.ledger.set(quota)
        self.pump()

    def stop(self) -> None:
        """The scheduler is killed."""
        self.up = False

    def start(self) -> None:
        """Another scheduler starts, knowing what the store says, as `Dispatcher.start` does."""
        self._build()
        self.up = True
        for machine in self.machines:
            self._beat(machine)
        for quota in self.quotas.values():
            self.ledger.set(quota)
        for used in quotas.used(self._store):
            self.ledger.recall_used(used.scope, used.name, used.count, self.wall - used.at, self.now)
        self.backlog.replace(
            Found(self.backlog.resolve(number, jobs[0].wanted), len(jobs), self.wall_ahead + jobs[0].submitted)
            for number, jobs in self.stored.items()
            if jobs
        )
        out = list(self._out.values())
        self.flights.adopt(out, max((task.number for task in out), default=0), self.now)
        for task in out:
            lane = self.flights.by_lease[task.assignment.lease].lane
            assert lane is not None
            self.ledger.adopt(lane)
        unheard, self._unheard = self._unheard, []
        for job, seconds in unheard:
            self._apply(job, seconds)
        self._pumping_at = 0.0
        self.pump()

    def worker(
        self,
        slots: int,
        *queues: str,
        speed: float = 1.0,
        functions: Sequence[str] = (),
        labels: Sequence[str] = (),
    ) -> Machine:
        """A worker comes."""
        machine = Machine(f"w{len(self.machines)}", queues or ("q",), slots, speed)
        machine.functions, machine.labels = list(functions), list(labels)
        self.machines.append(machine)
        self._beat(machine)
        self.after(0.0, self.pump)
        return machine

    def _beat(self, machine: Machine) -> None:
        beat = Beat(machine.name, 1, list(machine.queues), machine.slots, [], [], capacity=machine.slots, direct=True)
        beat.functions, beat.labels = machine.functions, machine.labels
        self.directory.hear(beat, self.now)

    def submit(self, where: Lane, *runs: float) -> list[Job]:
        """Tasks of one lane are submitted together."""
        jobs = [Job(where, where, run, next(self._serial), self.now) for run in runs]
        where = self.backlog.place(where)
        for job in jobs:
            job.lane = where
        go = self.turns.admit(where, len(jobs), self.now)
        placements = self.flights.reserve(where.queue, go, where.priority)
        self.turns.admitted(where, go, 0, self.now)
        self._send(jobs[:go], placements)
        for worker in self.turns.admit_express(where, len(jobs), self.now) if not go else ():
            placements = self.flights.reserve(where.queue, 1, where.priority, worker, express=True)
            self.turns.admitted(where, 1, 0, self.now)
            self._send([jobs[go]], placements, worker, express=True)
            go += 1
        if jobs[go:]:
            self.stored[where.number].extend(jobs[go:])
            self.backlog.add(where, len(jobs) - go, self.wall)
        self.pump()
        return jobs

    def after(self, seconds: float, then: Callable[[], object]) -> None:
        """Something happens later."""
        heappush(self._events, (self.now + seconds, next(self._serial), then))

    def run(self, until: float) -> None:
        """Let time pass until so many seconds after the start."""
        assert START + until >= self.now, "that is over"
        while self._events and self._events[0][0] <= START + until:
            self.now, _, then = heappop(self._events)
            then()
        self.now = START + until

    def run_until(self, over: Callable[[], bool], at_most: float = 1e6) -> None:
        """Let time pass until something is true."""
        while not over():
            assert self._events, "nothing happens any more"
            assert self._events[0][0] < START + at_most, "it takes too long"
            self.now, _, then = heappop(self._events)
            then()

    def pump(self) -> None:
        """Claim while there is something to claim."""
        if not self.up:
            return
        while turns := self.turns.plan(self.now, self.wall):
            for turn in turns:
                self._take(turn, self._reserve(turn))
        self._pump_again()

    def _reserve(self, turn: Turn) -> list[Placement]:
        priority = turn.lanes[0].priority
        return self.flights.reserve(turn.queue, turn.count, priority, turn.worker, express=turn.express)

    def _pump_again(self) -> None:
        again = self.turns.again_at
        if again is not None and not self.now < self._pumping_at <= again:
            self._pumping_at = max(again, self.now)
            self.after(max(0.0, again - self.now), self.pump)

    def _take(self, turn: Turn, placements: Sequence[Placement]) -> None:
        waiting = [self.stored[lane.number] for lane in turn.lanes]
        jobs: list[Job] = []
        while len(jobs) < turn.count:
            heads = [queue for queue in waiting if queue]
            if not heads:
                break
            jobs.append(min(heads, key=lambda queue: queue[0].seq).popleft())
        self.flights.release(turn.queue, placements[len(jobs) :])
        found = Counter(job.lane.number for job in jobs)
        oldest = {job.lane.number: self.wall_ahead + job.submitted for job in jobs}
        self.turns.settle(turn, found, found, self.now, oldest)
        self._send(jobs, placements, turn.worker, turn.express)

    def _send(
        self, jobs: Sequence[Job], placements: Sequence[Placement], worker: str = "", express: bool = False
    ) -> None:  # fmt: skip
        claimed = []
        for job, placement in zip(jobs, placements, strict=False):
            assignment = Assignment(str(job.seq), job.lane.task, placement.lease, 1)
            claimed.append(
                ClaimedTask(
                    assignment,
                    job.lane.queue,
                    job.lane.priority,
                    0.0,
                    placement.number,
                    lane=job.lane.number,
                    key=job.lane.key,
                    worker=worker,
                    express=express,
                )
            )
            self._out[job.seq] = claimed[-1]
            job.sent, job.express = self.now, express
            self.sent.append(job)
        if jobs:
            spans = {(scope.value, name): each.rate.per for (scope, name), each in self.quotas.items() if each.rate}
            dispatched = ((job.lane.queue, job.lane.task, job.lane.key) for job in jobs)
            if spans:
                note_dispatched(self._store, spans, dispatched, self.wall)
            self.flights.launch(claimed, self.now)
            self._deliver(jobs, worker)

    def _deliver(self, jobs: Sequence[Job], worker: str) -> None:
        self.after(self.path, lambda: self._arrive(jobs, worker))

    def _arrive(self, jobs: Sequence[Job], worker: str) -> None:
        for job in jobs:
            if worker:
                machine = next(machine for machine in self.machines if machine.name == worker)
                (machine.express if job.express else machine.own).append(job)
            else:
                self.work[job.lane.queue].append(job)
        self._hand_out()

    def _hand_out(self) -> None:
        progress = True
        while progress:
            progress = False
            for machine in self.machines:
                queues = [self.work[queue] for queue in machine.queues if self.work[queue]]
                if machine.own:
                    queues.append(machine.own)
                if machine.busy < machine.slots and machine.express:
                    progress = True
                    self._start(machine, machine.express.popleft())
                elif machine.busy < machine.slots and queues:
                    progress = True
                    self._start(machine, min(queues, key=lambda queue: (queue[0].sent, queue[0].seq)).popleft())

    def _start(self, machine: Machine, job: Job) -> None:
        machine.busy += 1
        job.started, job.by = self.now, machine.name
        seconds = job.run / machine.speed
        self.after(seconds, lambda: self._end(machine, job, seconds))

    def _end(self, machine: Machine, job: Job, seconds: float) -> None:
        machine.busy -= 1
        job.ended = self.now
        self.used[job.lane.queue] += seconds  # type: ignore[assignment]
        self.done.append(job)
        self._hand_out()
        self.after(self.path, lambda: self._apply(job, seconds))

    def _apply(self, job: Job, seconds: float) -> None:
        if not self.up:
            self._unheard.append((job, seconds))
            return
        self.express.finished(job.by, 1, self.now)
        self._land(job, seconds)
        self.pump()

    def _land(self, job: Job, seconds: float | None) -> None:
        self.flights.land(self._out.pop(job.seq).assignment.lease, self.now, seconds)

    def _give_back(self, job: Job) -> None:
        """It was returned unrun, and waits again where it did."""
        self._land(job, None)
        self.sent.remove(job)
        self.stored[job.lane.number].appendleft(job)
        self.backlog.add(job.lane, 1, self.wall_ahead + job.submitted)


def _close(store: Connection) -> None:
    store.close()
    store.engine.dispose()


def of(queue: str = "q", key: str = "", *, priority: int = 4, task: str = "t", requires: Sequence[str] = ()) -> Lane:
    """A lane."""
    return lane(queue, priority, task, key, requires)

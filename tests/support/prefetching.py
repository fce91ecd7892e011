"""The fleet under a fake clock, with workers, messages and commits that take their time as real ones do.

A worker takes bundles of each of its queues ahead, up to a prefetch, and runs what they hold in the order of its
arrival, whatever the queue, express ones first. It has one batch of replies on its way at a time, and acks what the
broker has confirmed; only then it is given the next. The scheduler commits one claim at a time, and plans the next one
after that.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from scheduler_service.fleet.hand import Turn
from scheduler_service.storage.tasks import Placement
from tests.support.fleet import Fleet, Job, Machine
from worker_service.consumer import prefetch_for

PATIENCE = 0.1
"""Seconds that a task waits in a worker before it is given back; `queue_patience` of the settings."""


@dataclass(eq=False)
class Load:
    """A bundle.

    Attributes:
        queue: the work queue that it is in.
        jobs: what it holds.
        open: how many of these are not answered.
    """

    queue: str
    jobs: Sequence[Job]
    open: int


class PrefetchingFleet(Fleet):
    """Workers that take ahead; see the module's docstring. All workers can run everything.

    Args:
        path: seconds of a message in each direction.
        commit: seconds of a claim.
        spread: a task runs up to so much longer than it should, by chance.
        seed: of that chance.
    """

    def __init__(self, path: float = 0.003, commit: float = 0.003, spread: float = 0.1, seed: int = 1) -> None:
        super().__init__(path=path)
        self.commit = commit
        self.returned = 0
        self._spread = spread
        self._dice = Random(seed)
        self._committing = False
        self._ready: dict[str, deque[Load]] = defaultdict(deque)
        self._unacked: dict[tuple[Machine, str], int] = defaultdict(int)
        self._lines: dict[Machine, deque[tuple[Job, Load, float]]] = defaultdict(deque)
        self._first: dict[Machine, deque[tuple[Job, Load, float]]] = defaultdict(deque)
        self._replies: dict[Machine, list[tuple[Job, Load, float | None]]] = defaultdict(list)
        self._replying: set[Machine] = set()

    def pump(self) -> None:
        """Plan and commit, one claim after the other."""
        if not self.up or self._committing:
            return
        turns = self.turns.plan(self.now, self.wall)
        if not turns:
            self._pump_again()
            return
        self._committing = True
        reserved = [self._reserve(turn) for turn in turns]
        self.after(self.commit, lambda: self._committed(turns, reserved))

    def _committed(self, turns: Sequence[Turn], reserved: Sequence[Sequence[Placement]]) -> None:
        self._committing = False
        for turn, placements in zip(turns, reserved, strict=True):
            self._take(turn, placements)
        self.pump()

    def _deliver(self, jobs: Sequence[Job], worker: str) -> None:
        queue = jobs[0].lane.queue
        size = self.rooms.window(queue, self.now).bundle
        loads = [jobs[first : first + size] for first in range(0, len(jobs), size)]
        queue = worker or queue
        self.after(self.path, lambda: self._arrived(queue, [Load(queue, load, len(load)) for load in loads]))

    def _arrived(self, queue: str, loads: Sequence[Load]) -> None:
        self._ready[queue].extend(loads)
        self._hand_out()

    def _hand_out(self) -> None:
        progress = True
        while progress:
            progress = False
            for machine in self.machines:
                for queue in (machine.name, *machine.queues):
                    if self._ready[queue] and self._unacked[machine, queue] < prefetch_for(machine.slots):
                        progress = True
                        self._unacked[machine, queue] += 1
                        load = self._ready[queue].popleft()
                        self.after(self.path, partial(self._got, machine, load))

    def _got(self, machine: Machine, load: Load) -> None:
        self._lines[machine].extend((job, load, self.now) for job in load.jobs if not job.express)
        self._first[machine].extend((job, load, self.now) for job in load.jobs if job.express)
        self.after(PATIENCE, lambda: self._overdue(machine))
        self._fill(machine)

    def _overdue(self, machine: Machine) -> None:
        for line in (self._first[machine], self._lines[machine]):
            while line and line[0][2] + PATIENCE <= self.now + 1e-9:
                job, load, _ = line.popleft()
                self.returned += 1
                self._reply(machine, job, load, None)

    def _fill(self, machine: Machine) -> None:
        while (line := self._first[machine] or self._lines[machine]) and machine.busy < machine.slots:
            job, load, _ = line.popleft()
            machine.busy += 1
            job.started, job.by = self.now, machine.name
            seconds = job.run * (1 + self._dice.uniform(0, self._spread)) / machine.speed
            self.after(seconds, partial(self._ran, machine, job, load, seconds))

    def _ran(self, machine: Machine, job: Job, load: Load, seconds: float) -> None:
        machine.busy -= 1
        job.ended = self.now
        self.used[job.lane.queue] += seconds  # type: ignore[assignment]
        self.done.append(job)
        self._fill(machine)
        self._reply(machine, job, load, seconds)

    def _reply(self, machine: Machine, job: Job, load: Load, seconds: float | None) -> None:
        self._replies[machine].append((job, load, seconds))
        if machine not in self._replying:
            self._flush(machine)

    def _flush(self, machine: Machine) -> None:
        replies, self._replies[machine] = self._replies[machine], []
        if not replies:
            self._replying.discard(machine)
            return
        self._replying.add(machine)
        self.after(self.path, lambda: self._hear(machine, replies))
        self.after(2 * self.path, lambda: self._flush(machine))
        self.after(3 * self.path, lambda: self._ack(machine, replies))

    def _hear(self, machine: Machine, replies: Sequence[tuple[Job, Load, float | None]]) -> None:
        ended = sum(seconds is not None for _, _, seconds in replies)
        self.express.finished(machine.name, ended, self.now)
        for job, _, seconds in replies:
            if seconds is not None:
                self._land(job, seconds)
            else:
                self._give_back(job)
        self.pump()

    def _ack(self, machine: Machine, replies: Sequence[tuple[Job, Load, float | None]]) -> None:
        for _, load, _ in replies:
            load.open -= 1
            if not load.open:
                self._unacked[machine, load.queue] -= 1
        self._hand_out()

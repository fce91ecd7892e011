"""The world around a simulated scheduler: a broker of lists, and workers that die, freeze and come back too late.

See `tests.support.simulation`, which adds the scheduler and the dice's rule of what happens next.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random

from msgspec import Raw

from common.options import Backoff
from common.states import Event, Failed, Returned, Succeeded, Task, UnknownFunction
from common.wire import Advice, Assignment, Beat, ErrorInfo, ErrorKind, Isolation
from scheduler_service.fleet.directory import Directory

QUEUE = "default"
SLOTS = 4
FLAKY = Advice(retries=3, backoff=Backoff(base=0.2))


class Violation(AssertionError):
    """The system broke its promise."""


@dataclass(frozen=True)
class Faults:
    """What may go wrong, as weights against that of an ordinary step (1.0).

    Attributes:
        kill: a worker dies.
        freeze: a worker is cut off, runs on, and answers late.
        restart: the scheduler dies, perhaps between a commit and its ack.
        purge: the work queue is emptied.
        amnesia: the broker comes back without its data.
        double: chance that a reply or a submission comes twice.
        unknown: chance that a publish arrives but its confirm does not.
        cancel: somebody cancels an unfinished task.
    """

    kill: float = 0.0
    freeze: float = 0.0
    restart: float = 0.0
    purge: float = 0.0
    amnesia: float = 0.0
    double: float = 0.0
    unknown: float = 0.0
    cancel: float = 0.0

    @property
    def may_run_twice_at_once(self) -> bool:
        """Whether a task may be in two hands without anybody's fault."""
        return bool(self.freeze or self.unknown or self.amnesia or self.restart)


@dataclass
class Row:
    """A stored task.

    `kind` is what its function does: fine, raises, flaky (raises twice), kills (its process), massacre (the worker);
    hasty is fine, and has to be started soon.
    """

    id: str
    kind: str
    task: Task
    priority: int
    number: int = 0


@dataclass
class Message:
    """A bundle in the broker or at a worker."""

    tasks: list[Assignment]
    redelivered: bool = False
    open: set[str] = field(default_factory=set)


@dataclass
class Worker:
    """A worker; `cut` when the broker has given it up and it runs on."""

    name: str
    beats: int = 0
    bundles: list[Message] = field(default_factory=list)
    waiting: list[Assignment] = field(default_factory=list)
    running: list[Assignment] = field(default_factory=list)
    cut: bool = False

    @property
    def closed(self) -> bool:
        """Whether it takes nothing more, because a suspect is to run alone in it."""
        return any(task.isolation is Isolation.ALONE for task in (*self.waiting, *self.running))


class Outside:
    """Broker and workers.

    Attributes:
        work: the ready messages of the work queue, in order.
        replies: confirmed replies that the scheduler has not taken; a text is a redelivered lease.
        late: replies that will come again.
        runs: how often each task's function was started.
        deaths: when workers died.
        blamed: how often a task ran alone in a worker when that died.
    """

    def __init__(self, seed: int, faults: Faults) -> None:
        self.dice = Random(seed)
        self.faults = faults
        self.now = 1000.0
        self.directory = Directory(dead_after=1e9)
        self.work: list[Message] = []
        self.replies: list[tuple[str, Event | str]] = []
        self.late: list[tuple[str, Event | str]] = []
        self.workers = [Worker(f"worker-{n}") for n in range(2)]
        self.born = len(self.workers)
        self.runs: Counter[str] = Counter()
        self.deaths: list[float] = []
        self.blamed: Counter[str] = Counter()
        self.busy: dict[str, int] = defaultdict(int)

    def fault(self, chance: float) -> bool:
        return self.dice.random() < chance

    # --- the workers -------------------------------------------------------------------------------------------

    def beat(self, worker: Worker) -> None:
        if worker.cut:
            return
        worker.beats += 1
        running, waiting = ([task.lease for task in tasks] for tasks in (worker.running, worker.waiting))
        beat = Beat(worker.name, worker.beats, [QUEUE], SLOTS, running, waiting, draining=worker.closed)
        self.directory.hear(beat, self.now)

    def deliver(self) -> None:
        free = [each for each in self.workers if not each.cut and len(each.running) + len(each.waiting) < 2 * SLOTS]
        if not self.work or not free:
            return
        message, worker = self.work.pop(0), self.dice.choice(free)
        if worker.closed and not message.redelivered:
            self.replies += [(task.id, Returned(task.lease)) for task in message.tasks]
            return
        if message.redelivered:
            self.replies += [(task.id, task.lease) for task in message.tasks]
            return
        worker.bundles.append(message)
        worker.waiting += message.tasks

    def start(self) -> None:
        worker = self.dice.choice(self.workers)
        alone = any(task.isolation is Isolation.ALONE for task in worker.running)
        if not worker.waiting or alone or len(worker.running) >= SLOTS:
            return
        task = worker.waiting[self.dice.randrange(len(worker.waiting))]
        if task.isolation is Isolation.ALONE and worker.running:
            return
        worker.waiting.remove(task)
        if task.task == "unknown":
            error = ErrorInfo(ErrorKind.UNKNOWN_FUNCTION, "UnknownFunction", task.task)
            self.answer(worker, task, UnknownFunction(task.lease, error))
            return
        if self.dice.random() < 0.2:
            self.answer(worker, task, Returned(task.lease))
            return
        worker.running.append(task)
        if task.isolation is Isolation.ALONE:
            self.beat(worker)  # a worker says so before it starts what may be its death
        self.runs[task.id] += 1
        self.busy[task.id] += 1
        if self.busy[task.id] > 1 and not self.faults.may_run_twice_at_once:
            raise Violation(f"{task.id} runs twice at once, and nothing had happened that explains it")

    def finish(self) -> None:
        worker = self.dice.choice(self.workers)
        if not worker.running:
            return
        task = worker.running[self.dice.randrange(len(worker.running))]
        if task.task == "massacre" or (task.task == "kills" and task.isolation is Isolation.NONE):
            self.kill(worker)
            return
        worker.running.remove(task)
        self.busy[task.id] -= 1
        if task.task == "kills":
            event: Event = Failed(task.attempt, task.lease, ErrorInfo(ErrorKind.CRASHED, "Crashed", "signal 9"))
        elif task.task == "flaky" and self.runs[task.id] < 3:
            error = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", task.id)
            event = Failed(task.attempt, task.lease, error, FLAKY, self.dice.random())
        elif task.task == "raises":
            event = Failed(task.attempt, task.lease, ErrorInfo(ErrorKind.EXCEPTION, "ValueError", task.id))
        else:
            event = Succeeded(task.attempt, task.lease, Raw(b'"%s"' % task.id.encode()))
        self.answer(worker, task, event)

    def answer(self, worker: Worker, task: Assignment, event: Event) -> None:
        """Reply, confirmed; then ack each bundle of which all is answered."""
        self.replies.append((task.id, event))
        if worker.cut and not worker.waiting and not worker.running:
            self.workers.remove(worker)
            return
        for bundle in worker.bundles:
            bundle.open.discard(task.lease)
        worker.bundles = [bundle for bundle in worker.bundles if bundle.open]

    def die(self, worker: Worker) -> None:
        """The broker takes the unacked bundles back, to the head of the queue."""
        self.deaths.append(self.now)
        self.blamed.update(task.id for task in worker.running if task.isolation is Isolation.ALONE)
        self.work[:0] = [Message(bundle.tasks, True) for bundle in worker.bundles]
        worker.bundles = []

    def be_born(self) -> None:
        self.workers.append(Worker(f"worker-{self.born}"))
        self.born += 1

    def kill(self, worker: Worker | None = None) -> None:
        worker = worker or self.dice.choice(self.workers)
        for task in worker.running:
            self.busy[task.id] -= 1
        self.die(worker)
        self.workers.remove(worker)
        self.be_born()

    def freeze(self) -> None:
        worker = self.dice.choice(self.workers)
        if not worker.cut:
            worker.cut = True
            self.die(worker)
            self.be_born()

    def told_to_stop(self, lease: str) -> None:
        """A control message has reached those workers that are there and listen; a running one may not care."""
        for worker in self.workers:
            for tasks in (worker.waiting, worker.running):
                for task in [task for task in tasks if task.lease == lease]:
                    if worker.cut or (tasks is worker.running and self.dice.random() < 0.5):
                        continue
                    tasks.remove(task)
                    self.busy[task.id] -= tasks is worker.running
                    self.answer(worker, task, Returned(lease))
                    if worker not in self.workers:
                        return

    # --- the broker's own faults -------------------------------------------------------------------------------

    def purge(self) -> None:
        self.work.clear()

    def amnesia(self) -> None:
        """What is in the broker is gone, also the replies; what the store has must not be lost by that."""
        self.work.clear()
        self.replies.clear()
        for worker in self.workers:
            worker.bundles = []

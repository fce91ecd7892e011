"""The live workers, known from their beats.

A worker is live while it beats. It is dead when it says that it leaves, when it has been silent for too long, or when
its exclusive control queue is gone (so its connection is) and it has not come back within a grace time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from msgspec import Struct

from common.wire import Beat

DEATHS: Final = 100
"""How many deaths are remembered, to tell whose tasks are suspects."""
SHOWN: Final = 600.0
"""Seconds for which a lost worker is shown to operators."""
LATE: Final = 3
"""Beats that a worker may miss before it counts as silent."""

FUNCTIONS: Final = 10_000
"""How many task functions are remembered that workers have known."""
LONGEST_NAME: Final = 128
"""Characters of a task function's name that a task can have (`common.wire.TaskName`)."""


class Worker(Struct):
    """What is known of one worker.

    Attributes:
        beat: its last beat.
        heard_at: when that arrived, monotonic seconds.
        leases: every lease it held then.
        running: those that had started.
        queues: the queues it serves.
        functions: the task functions it knows; empty until it has said.
        gone_since: when its control queue was found missing, monotonic seconds, or None.
    """

    beat: Beat
    heard_at: float
    leases: frozenset[str]
    running: frozenset[str]
    functions: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    gone_since: float | None = None

    def is_silent(self, now: float) -> bool:
        """Whether it should have been heard by `now` (monotonic seconds), or its connection is gone."""
        return self.gone_since is not None or now - self.heard_at > LATE * self.beat.interval


class Death(Struct, frozen=True):
    """A worker that died.

    Attributes:
        beat: its last beat.
        heard_at: when it was last heard, monotonic seconds.
        queues: the queues that it served.
        leases: what it held when it was last heard.
        running: what of that had started.
        leaving: it said that it was leaving: no crash.
    """

    beat: Beat
    heard_at: float
    queues: frozenset[str]
    leases: frozenset[str]
    running: frozenset[str]
    leaving: bool

    @property
    def worker(self) -> str:
        """Its id."""
        return self.beat.worker


class Directory:
    """The live workers.

    Args:
        dead_after: seconds of silence after which a worker counts as dead.
    """

    def __init__(self, dead_after: float) -> None:
        self._dead_after = dead_after
        self.workers: dict[str, Worker] = {}
        self.deaths: deque[Death] = deque(maxlen=DEATHS)
        self.version = 0
        """Counts the changes of who can run what."""
        self._returned: set[str] = set()
        self._heard_of: set[str] = set()
        self._fresh: set[str] = set()

    def hear(self, beat: Beat, now: float) -> None:
        """Take a beat that arrived at `now`."""
        known = self.workers.get(beat.worker)
        if beat.leaving:
            if known is not None:
                self._bury(known, leaving=True)
            return
        if known is not None and beat.number < known.beat.number:
            return
        if known is None and self.has_died(beat.worker):
            self._returned = {death.worker for death in self.deaths if death.worker in self._returned} | {beat.worker}
        running = frozenset(beat.running)
        functions = frozenset(beat.functions) if beat.functions is not None else None
        named = (functions or frozenset()).union(beat.barred or ())
        if not named <= self._heard_of:
            self._fresh |= self.remember(named)
        self.workers[beat.worker] = Worker(
            beat,
            now,
            running.union(beat.waiting),
            running,
            functions if functions is not None else (known.functions if known else frozenset()),
            frozenset(beat.queues),
        )
        if known is None or _abilities(known) != _abilities(self.workers[beat.worker]):
            self.version += 1

    def bury_silent(self, now: float, grace: float, deaf_until: float) -> list[Death]:
        """Take out the workers that are dead by now.

        Args:
            now: monotonic seconds.
            grace: seconds that a worker whose control queue is gone has to come back.
            deaf_until: until when we could not hear; workers that were not heard since then may be on their way
                back, as we were, and are given up only after the long silence.
        """
        dead = [
            worker
            for worker in self.workers.values()
            if now - worker.heard_at > max(self._dead_after, 3 * worker.beat.interval)
            or (worker.gone_since is not None and now - worker.gone_since > grace and worker.heard_at > deaf_until)
        ]
        return [self._bury(worker, leaving=False) for worker in dead]

    def miss(self, worker: str, now: float) -> None:
        """The connection of a worker was found to be gone at `now`; a beat after that says that it is back."""
        known = self.workers.get(worker)
        if known is not None and known.gone_since is None:
            known.gone_since = now

    def forgive(self, now: float) -> None:
        """Count silence from `now`: we were deaf ourselves until then."""
        for worker in self.workers.values():
            worker.heard_at = now
            worker.gone_since = None

    def _bury(self, worker: Worker, *, leaving: bool) -> Death:
        del self.workers[worker.beat.worker]
        self.version += 1
        beat = worker.beat
        death = Death(beat, worker.heard_at, frozenset(beat.queues), worker.leases, worker.running, leaving)
        if not leaving:
            self.deaths.append(death)
            self._returned.discard(death.worker)
        return death

    def lost(self, now: float) -> list[Death]:
        """The workers that died lately and have not been back since, the newest first; a bounded number of them."""
        newest: dict[str, Death] = {}
        for death in reversed(self.deaths):
            if now - death.heard_at < SHOWN and death.worker not in self._returned:
                newest.setdefault(death.worker, death)
        return list(newest.values())

    def holder(self, lease: str) -> str | None:
        """The live worker whose last beat lists `lease`, or None."""
        for name, worker in self.workers.items():
            if lease in worker.leases:
                return name
        return None

    def running_at(self, lease: str) -> str | None:
        """The live worker on which `lease` has started, or None."""
        for name, worker in self.workers.items():
            if lease in worker.running:
                return name
        return None

    def held_by_dead(self, lease: str) -> bool:
        """Whether a worker that died listed `lease` in its last beat."""
        return any(not death.leaving and lease in death.leases for death in self.deaths)

    def has_heard_of(self, function: str) -> bool:
        """Whether a worker has ever said that it knows the task function, even if it lacks labels to run it."""
        return function in self._heard_of

    def remember(self, functions: Iterable[str]) -> set[str]:
        """Count task functions as heard of; returns those that were not. There is a limit to how many."""
        unknown = (name for name in functions if name not in self._heard_of and len(name) <= LONGEST_NAME)
        new = set(islice(unknown, FUNCTIONS - len(self._heard_of)))
        if new:
            self._heard_of |= new
            self.version += 1
        return new

    def named(self) -> set[str]:
        """The task functions that live workers name."""
        return {name for worker in self.workers.values() for name in worker.functions if name in self._heard_of}

    def take_fresh(self) -> set[str]:
        """The task functions that workers have named for the first time since the last call."""
        fresh, self._fresh = self._fresh, set()
        return fresh

    def has_died(self, worker: str) -> bool:
        """Whether the worker with this id died lately, without saying that it was leaving."""
        return any(not death.leaving and death.worker == worker for death in self.deaths)

    def dead_holder(self, lease: str) -> str | None:
        """The worker that died and had listed `lease` in its last beat, or None."""
        return next((death.worker for death in self.deaths if not death.leaving and lease in death.leases), None)

    def running_at_dead(self, lease: str) -> bool:
        """Whether a worker that died had said that `lease` was running."""
        return any(not death.leaving and lease in death.running for death in self.deaths)

    def holder_died(self, lease: str, queue: str, dispatched_at: float) -> bool:
        """Whether a worker that held, or may have held, `lease` has died since it was dispatched.

        Args:
            lease: the lease.
            queue: its queue.
            dispatched_at: when it was dispatched, monotonic seconds.
        """
        return any(
            not death.leaving
            and (lease in death.leases or (queue in death.queues and death.heard_at >= dispatched_at - 2.0))
            for death in self.deaths
        )

    def serving(self, queue: str) -> list[Worker]:
        """The live workers that take tasks of `queue`."""
        return [
            worker
            for worker in self.workers.values()
            if not (worker.beat.draining or worker.beat.paused)
            and worker.gone_since is None
            and queue in worker.beat.queues
        ]

    def is_elsewhere(self, function: str, worker: str) -> bool:
        """Whether workers have named the task function, and `worker`, which does not know it, is none of them."""
        here = self.workers.get(worker)
        return self.has_heard_of(function) and (here is None or function not in here.functions)

    def queues(self) -> set[str]:
        """Every queue that a live worker serves."""
        return {queue for worker in self.workers.values() for queue in worker.beat.queues}

    def why_waiting(self, queue: str, task: str) -> str:
        """Why a task of `queue` cannot run now, in a sentence; empty when it can."""
        serving = self.serving(queue)
        if not serving:
            return f"no live worker serves the queue {queue!r}"
        if all(worker.functions and task not in worker.functions for worker in serving):
            return f"no live worker of the queue {queue!r} knows the task function {task!r}"
        return ""


def _abilities(worker: Worker) -> tuple[object, ...]:
    beat = worker.beat
    return worker.functions, beat.queues, beat.labels, beat.draining, beat.paused, beat.direct


def is_serving(worker: Worker) -> bool:
    """Whether `worker` takes new tasks."""
    return not worker.beat.draining and not worker.beat.paused and worker.gone_since is None

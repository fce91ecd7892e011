"""Which of the live workers can run what.

A worker announces the task functions that it knows and whose requirements (those of the decorator) its labels meet; a
submission may require more labels. A worker that has not told its functions yet counts as capable of any: it tells
them within a second, and gives back what it does not know.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from msgspec import Struct

from scheduler_service.fleet.directory import Directory, Worker
from scheduler_service.fleet.lanes import Lane

REMEMBERED: Final = 20_000
"""Answers that are kept at most until a worker changes."""


class Serves(Enum):
    """How many of the workers that serve a queue can run a lane of it."""

    ALL = auto()
    """It goes to the work queue that they share."""
    SOME = auto()
    """It goes to one of those that can, by its direct queue."""
    NONE = auto()
    """It waits in the store."""


class Ability(Struct, frozen=True):
    """Who can run a lane.

    Attributes:
        serves: how many of those that serve its queue.
        workers: the ids of those that can and take direct tasks, when only some can.
    """

    serves: Serves
    workers: tuple[str, ...] = ()


_ALL: Final = Ability(Serves.ALL)
_NONE: Final = Ability(Serves.NONE)


class Capability:
    """Answers from the directory, kept until a worker comes, goes or changes.

    Args:
        directory: the live workers.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._version = -1
        self._known: dict[tuple[str, str, tuple[str, ...]], Ability] = {}
        self._serving: dict[str, list[str]] = {}

    @property
    def version(self) -> int:
        """Counts the changes of who can run what."""
        return self._directory.version

    def of(self, lane: Lane) -> Ability:
        """Who can run `lane`."""
        self._look()
        question = (lane.queue, lane.task, lane.requires)
        ability = self._known.get(question)
        if ability is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            ability = self._known[question] = self._find(lane)
        return ability

    def why_not(self, lane: Lane) -> str:
        """Why no live worker can run `lane`, in a sentence; empty when one can."""
        serving = self._workers(lane.queue)
        if self.of(lane).serves is not Serves.NONE and any(_knows(worker, lane) for worker in serving):
            return ""
        if not serving:
            return f"no live worker serves the queue {lane.queue!r}"
        knowing = [worker for worker in serving if _knows(worker, lane)]
        wanted = ", ".join(lane.requires)
        if not knowing and not any(_has(worker, lane) for worker in serving):
            return f"no live worker of the queue {lane.queue!r} has the labels {wanted}"
        if not knowing:
            return f"no live worker of the queue {lane.queue!r} knows the task function {lane.task!r} and may run it"
        if not any(_has(worker, lane) for worker in knowing):
            return f"no live worker of the queue {lane.queue!r} that knows {lane.task!r} has the labels {wanted}"
        return (
            f"the live workers that can run {lane.task!r} take no tasks of their own (direct) and others cannot run it"
        )

    def _find(self, lane: Lane) -> Ability:
        serving = self._workers(lane.queue)
        capable = [worker for worker in serving if _knows(worker, lane) and _has(worker, lane)]
        if not capable and not self._directory.has_heard_of(lane.task):
            # Nobody ever named it: whoever has the labels is asked, so that it fails when the grace time is over.
            capable = [worker for worker in serving if _has(worker, lane)]
        if not capable:
            return _NONE
        if len(capable) == len(serving):
            return _ALL
        direct = tuple(worker.beat.worker for worker in capable if worker.beat.direct)
        return Ability(Serves.SOME, direct) if direct else _NONE

    def _workers(self, queue: str) -> list[Worker]:
        self._look()
        # One whose connection is gone counts until it is given up: within a second it is back, or it is dead.
        names = self._serving.get(queue)
        workers = self._directory.workers
        if names is None:
            names = self._serving[queue] = [
                name
                for name, worker in workers.items()
                if queue in worker.beat.queues and not worker.beat.draining and not worker.beat.paused
            ]
        return [workers[name] for name in names]

    def _look(self) -> None:
        if self._version != self._directory.version:
            self._version = self._directory.version
            self._known.clear()
            self._serving.clear()


def _knows(worker: Worker, lane: Lane) -> bool:
    return not worker.functions or not lane.task or lane.task in worker.functions


def _has(worker: Worker, lane: Lane) -> bool:
    return not lane.requires or set(lane.requires) <= set(worker.beat.labels)

"""What a running task knows about itself: ``from common import ctx``.

`ctx` stands for the task that runs here and now, in all three runtimes, and in whatever a task function starts with a
copy of its context (`asyncio.create_task`, `asyncio.to_thread`)::

    @task
    async def resize(paths: list[str]) -> None:
        for number, path in enumerate(paths):
            await shrink(path)
            ctx.progress(number + 1, len(paths), path)
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, Protocol

from msgspec import Struct

from common.errors import NoTask
from common.options import TaskOptions
from common.questions import Progress
from common.tasks import Call, TaskFunction
from common.wire import Assignment, TaskMessage

MAX_NOTE: Final = 200
_log: Final = logging.getLogger("warren.task")


class Surroundings(Protocol):
    """What a runtime does for the tasks that it runs."""

    def progress(self, lease: str, progress: Progress) -> None:
        """Report it soon. Called in any thread, at any rate; returns at once."""

    def submit(self, message: TaskMessage) -> Future[None]:
        """Submit a task; done when the broker has confirmed it. Called in any thread."""


class Child:
    """A task that a task function has submitted.

    In a coroutine function ``await`` it; it is there for sure only then, or when the task function has succeeded,
    since a task does not succeed before its children are confirmed.

    Attributes:
        id: its id.
    """

    __slots__ = ("_confirmed", "id")

    def __init__(self, task_id: str, confirmed: Future[None]) -> None:
        self.id = task_id
        self._confirmed = confirmed

    def __await__(self) -> Generator[Any, None, str]:
        if not self._confirmed.done():
            yield from asyncio.wrap_future(self._confirmed).__await__()
        return self.wait()

    def __repr__(self) -> str:
        return f"<child {self.id}>"

    def wait(self) -> str:
        """Block until the broker has confirmed it; its id.

        Raises:
            BrokerError: it was not confirmed.
        """
        self._confirmed.result()
        return self.id


class TaskContext(Struct, gc=False):
    """One attempt, from its start to its end.

    Attributes:
        assignment: the attempt.
        queue: where it came from.
        surroundings: what the runtime does for it.
        cancelled: it was cancelled, or its hard timeout is over.
        deadline: seconds since the epoch; None when it has no timeout.
        children: what it has submitted; None before the first.
    """

    assignment: Assignment
    queue: str
    surroundings: Surroundings
    cancelled: bool = False
    deadline: float | None = None
    children: list[Child] | None = None


current: Final[ContextVar[TaskContext]] = ContextVar("warren_task")


class TaskLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry the task's id, name, queue and attempt."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Add the task's fields to those of the line."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class Context:
    """The task that runs here; use it as `ctx`.

    Raises:
        NoTask: from each attribute and method, where no task runs.
    """

    __slots__ = ()

    @property
    def task_id(self) -> str:
        """The task's id."""
        return _now().assignment.id

    @property
    def name(self) -> str:
        """The task function's name."""
        return _now().assignment.task

    @property
    def queue(self) -> str:
        """The queue it came from."""
        return _now().queue

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return _now().assignment.attempt

    @property
    def deadline(self) -> float | None:
        """When its timeout is over (the hard one, when there is no other), seconds since the epoch; None without."""
        return _now().deadline

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants its result any more: it was cancelled, or its hard timeout is over.

        A function in a thread cannot be stopped from outside, so a long one should look at this now and then.
        """
        return _now().cancelled

    @property
    def log(self) -> TaskLog:
        """A logger bound to this task: its lines carry ``task_id``, ``task``, ``queue`` and ``attempt``."""
        here = _now()
        of = here.assignment
        fields = {"task_id": of.id, "task": of.task, "queue": here.queue, "attempt": of.attempt}
        return TaskLog(_log, fields)

    def progress(self, done: float, total: float = 0.0, note: str = "") -> None:
        """Say how far the task is, as often as you like: the newest word is sent, at most twice a second.

        Args:
            done: how much is done.
            total: of how much; 0 when that is not known.
            note: what it is doing, up to 200 characters; more is cut.

        Raises:
            ValueError: `done` or `total` is no finite number.
        """
        here = _now()
        try:
            counted = float(done), float(total)
        except (TypeError, OverflowError):
            counted = (math.nan, math.nan)
        if not all(map(math.isfinite, counted)):
            raise ValueError(f"progress is counted in finite numbers, not {done!r:.50} of {total!r:.50}")
        said = Progress(*counted, _said(note), time.time())
        here.surroundings.progress(here.assignment.lease, said)

    def submit(self, task: TaskFunction[..., Any] | Call[Any] | str, /, *args: Any, **kwargs: Any) -> Child:
        """Submit another task, with this one recorded as its parent.

        In a coroutine function, ``await ctx.submit(...)``; elsewhere it returns when the broker has confirmed it. When
        this task is run again, it submits again: give the child an id of its own, or an idempotency key, if it must
        not come twice.

        Args:
            task: a task function, its name, or a `call` with its options.
            args: its arguments.
            kwargs: its keyword arguments.

        Raises:
            InvalidTask: it cannot be submitted as it is.
            BrokerError: it was not confirmed.

        Example::

            await ctx.submit(resize, "a.png")
            await ctx.submit(call(resize, "b.png").options(delay=60))
        """
        from common.client.messages import message  # what a worker without children does not need

        here = _now()
        made = task if isinstance(task, Call) else Call(task, args, kwargs)
        sent = message(made, TaskOptions(parent=here.assignment.id))
        child = Child(sent.id, here.surroundings.submit(sent))
        if here.children is None:
            here.children = []
        here.children.append(child)
        if not _in_a_loop():
            child.wait()
        return child


ctx: Final = Context()
"""The task that runs here."""


def _now() -> TaskContext:
    try:
        return current.get()
    except LookupError:
        raise NoTask("no task runs here: ctx is for task functions, while a worker runs them") from None


def _said(note: str) -> str:
    """What is sent of a note: no more than fits, and nothing that UTF-8 cannot say, such as parts of a file's name."""
    return str(note)[:MAX_NOTE].encode("utf-8", "backslashreplace").decode()[:MAX_NOTE]


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

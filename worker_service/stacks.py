"""Where every running task is: the tool for "why does it hang"."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from common.wire import Isolation, encode
from worker_service.attempts import Attempt
from worker_service.runtimes import Runtime

MOST_BYTES: Final = 1024 * 1024
"""The largest answer, as JSON."""
_MARGIN: Final = 4096
_SECONDS: Final = 5.0
"""A runtime has this long to answer."""
CUT: Final = "(cut: the answer would be too large)"

_log = logging.getLogger(__name__)


class TaskStack(Struct):
    """One running task.

    Attributes:
        id, task, queue, attempt: which.
        age: seconds for which it has run.
        runtime: ``coroutine``, ``thread``, ``process`` or ``child`` (a suspect's own process).
        given_up: it did not end after its hard timeout; it has failed, and runs on without a slot.
        stack: its frames, the outermost first; what a coroutine awaits in other tasks is indented.
    """

    id: str
    task: str
    queue: str
    attempt: int
    age: float
    runtime: str
    given_up: bool
    stack: list[str]


class Stacks(Struct):
    """The answer to `stacks`.

    Attributes:
        tasks: every running task, the oldest first.
        cut: not all is here: it would be too large.
    """

    tasks: list[TaskStack]
    cut: bool = False


class StackReader:
    """Asks the runtimes.

    Args:
        running: what runs now, by the runtime that runs it.
        given_up: what runs on although it was given up, the same way.
    """

    def __init__(
        self,
        running: Callable[[], Mapping[Runtime, Sequence[Attempt]]],
        given_up: Callable[[], Mapping[Runtime, Sequence[Attempt]]],
    ) -> None:
        self._running = running
        self._given_up = given_up

    async def all(self) -> Stacks:
        """Every running task, as far as `MOST_BYTES` goes."""
        running, given_up = self._running(), self._given_up()
        frames = await self._frames([*running.items(), *given_up.items()])
        now = asyncio.get_running_loop().time()
        tasks = [_task(attempt, now, False, frames) for attempts in running.values() for attempt in attempts]
        tasks += [_task(attempt, now, True, frames) for attempts in given_up.values() for attempt in attempts]
        return bounded(sorted(tasks, key=lambda each: -each.age))

    async def of(self, attempts: Iterable[Attempt]) -> dict[Attempt, list[str]]:
        """The frames of these, as far as they still run."""
        wanted = set(attempts)
        running = self._running()
        return await self._frames([(runtime, [a for a in some if a in wanted]) for runtime, some in running.items()])

    async def _frames(self, asked: Iterable[tuple[Runtime, Sequence[Attempt]]]) -> dict[Attempt, list[str]]:
        found: dict[Attempt, list[str]] = {}
        questions = [_ask(runtime, attempts) for runtime, attempts in asked if attempts]
        for each in await asyncio.gather(*questions):
            found |= each
        return found


async def _ask(runtime: Runtime, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
    try:
        async with asyncio.timeout(_SECONDS):
            return await runtime.stacks(attempts)
    except Exception as error:  # noqa: BLE001 - the boundary: a look must not harm what is looked at
        _log.warning("stacks cannot be read", extra={"runtime": type(runtime).__name__, "reason": repr(error)})
        return {}


def bounded(tasks: Sequence[TaskStack], most: int = MOST_BYTES - _MARGIN) -> Stacks:
    """As many of `tasks` as fit into `most` bytes of JSON; each has a fair part of it at least.

    Example:
        >>> one = TaskStack("id", "f", "default", 1, 2.0, "thread", False, ["a.py:1 in f"] * 50)
        >>> short = bounded([one], 300)
        >>> short.cut, len(short.tasks), short.tasks[0].stack[0]
        (True, 1, '(cut: the answer would be too large)')
    """
    fair = most // max(1, len(tasks))
    kept: list[TaskStack] = []
    left, cut = most, False
    for at, task in enumerate(tasks):
        room = max(fair, left - fair * (len(tasks) - at - 1))
        size = len(encode(task)) + 1
        if size > room:
            cut = True
            # The innermost frames say most.
            while task.stack and size > room:
                half = task.stack[len(task.stack) // 2 + 1 :]
                size -= len(encode_lines(task.stack)) - len(encode_lines([CUT, *half]))
                task.stack = [CUT, *half] if half else []
        if size > left:
            break
        left -= size
        kept.append(task)
    return Stacks(kept, cut)


def encode_lines(lines: Sequence[str]) -> bytes:
    """As JSON, to know their size."""
    return encode(_Lines(list(lines)))


class _Lines(Struct):
    lines: list[str]


def _task(attempt: Attempt, now: float, given_up: bool, frames: Mapping[Attempt, list[str]]) -> TaskStack:
    of = attempt.assignment
    return TaskStack(
        id=of.id,
        task=of.task,
        queue=attempt.bundle.queue,
        attempt=of.attempt,
        age=round(max(0.0, now - attempt.started), 3),
        runtime=_kind(attempt),
        given_up=given_up,
        stack=frames.get(attempt, []),
    )


def _kind(attempt: Attempt) -> str:
    if attempt.assignment.isolation is not Isolation.NONE:
        return "child"
    if attempt.handler.in_process:
        return "process"
    return "coroutine" if attempt.handler.is_coroutine else "thread"

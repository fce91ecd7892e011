"""Where a coroutine is: its own frame, what it awaits, what that awaits, and so on to the innermost one.

An `asyncio.Task` shows only its outermost frame by itself. From there on each kind of awaitable names the next one: a
coroutine by ``cr_await``, a generator by ``gi_yieldfrom``, an asynchronous generator by ``ag_await``. Some of them are
objects of C without such an attribute (the iterator of a future, ``asend()`` of a generator); the garbage collector
knows what they refer to. At the end is mostly a future: if that is a task, it goes on there; if it stands for several
(``gather``, ``wait``, a task group), each of them is a branch.

Everything here may be done from another thread while the coroutines run on. A coroutine that moves meanwhile shows an
old line or ends early, and nothing worse.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

from worker_service import interrupts, pipeline

DEEPEST: Final = 200
"""Frames of one stack; of a deeper one the innermost are shown."""
MOST_BRANCHES: Final = 50
"""Children of one task that are shown."""
AROUND: Final = frozenset({pipeline.__file__, interrupts.__file__})
"""What runs a task function; whatever was called before that says nothing about the task."""
_TASK_GROUPS: Final = frozenset({"asyncio.taskgroups", "anyio._backends._asyncio"})
_INTERRUPT: Final = interrupts.CoroutineInterrupt.run.__code__


def frame_lines(frames: Iterable[tuple[FrameType, int]]) -> list[str]:
    """Frames as text, the outermost first, from the task function on.

    Args:
        frames: each with the line that it is at, the outermost first.
    """
    known = list(frames)
    return cut([(frame.f_code.co_filename, described(frame.f_code, line)) for frame, line in known])


def cut(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Lines without those before the task function, which are the same for every task, and `DEEPEST` at most.

    Args:
        lines: each with the file that it is in.
    """
    first = max((at + 1 for at, (file, _) in enumerate(lines) if file in AROUND), default=0)
    kept = [line for _, line in lines[first:]]
    return kept if len(kept) <= DEEPEST else [f"({len(kept) - DEEPEST} more)", *kept[-DEEPEST:]]


def described(code: CodeType, line: int) -> str:
    """One frame as a line of text, with its source where it can be read."""
    source = linecache.getline(code.co_filename, line).strip()
    place = f"{code.co_filename}:{line} in {code.co_qualname}"
    return f"{place}: {source[:200]}" if source else place


def thread_frames(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    """The frames of a thread, the outermost first.

    Args:
        frame: the innermost one, from `sys._current_frames`.
    """
    frames: list[tuple[FrameType, int]] = []
    while frame is not None and len(frames) < 10 * DEEPEST:
        frames.append((frame, frame.f_lineno or 0))
        frame = frame.f_back
    return frames[::-1]


def task_lines(task: asyncio.Task[Any], running: Callable[[asyncio.Task[Any]], FrameType | None]) -> list[str]:
    """Where a task is, through its awaits; the tasks that it waits for are indented.

    Args:
        task: the task.
        running: the innermost frame of the thread that runs it at this moment; None when it is suspended.
    """
    return list(_task(task, running, set(), 0))


def _task(
    task: asyncio.Task[Any],
    running: Callable[[asyncio.Task[Any]], FrameType | None],
    seen: set[int],
    depth: int,
) -> Iterator[str]:
    seen.add(id(task))
    indent = "  " * depth
    frame = running(task)
    if frame is not None:
        code = _code(task.get_coro())
        frames = thread_frames(frame)
        first = next((at for at, (each, _) in enumerate(frames) if each.f_code is code), 0)
        yield from (indent + line for line in frame_lines(frames[first:]))
        return
    frames, end = awaited(task.get_coro())
    yield from (indent + line for line in frame_lines(frames))
    waiter = end if isinstance(end, asyncio.Future) else getattr(task, "_fut_waiter", None)
    branches = [each for each in _branches(waiter, frames) if id(each) not in seen and not each.done()]
    for child in branches[:MOST_BRANCHES]:
        if id(child) in seen:
            continue
        yield f"{indent}awaits task {child.get_name()!r}:"
        if depth < 10:
            yield from _task(child, running, seen, depth + 1)
    if len(branches) > MOST_BRANCHES:
        yield f"{indent}awaits {len(branches) - MOST_BRANCHES} more tasks"
    if not branches and waiter is not None and not isinstance(waiter, asyncio.Task):
        yield f"{indent}awaits {type(waiter).__name__}"


def awaited(awaitable: Any) -> tuple[list[tuple[FrameType, int]], Any]:
    """The frames of a suspended awaitable, the outermost first, and what the innermost one awaits."""
    frames: list[tuple[FrameType, int]] = []
    while len(frames) < 10 * DEEPEST:
        if isinstance(awaitable, CoroutineType):
            frame, following = awaitable.cr_frame, awaitable.cr_await
        elif isinstance(awaitable, GeneratorType):
            frame, following = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif isinstance(awaitable, AsyncGeneratorType):
            frame, following = awaitable.ag_frame, awaitable.ag_await
        else:
            inner = _behind(awaitable)
            if inner is None:
                return frames, awaitable
            awaitable = inner
            continue
        if frame is None:
            return frames, None
        frames.append((frame, frame.f_lineno or 0))
        if frame.f_code is _INTERRUPT:
            # It sends by itself, so nobody knows that it awaits the task function.
            following = frame.f_locals.get("coroutine")
        awaitable = following
    return frames, awaitable


def _behind(awaitable: Any) -> Any:
    """What an object of C awaits in its turn; None when that is the end."""
    if awaitable is None or isinstance(awaitable, asyncio.Future):
        return None
    for each in gc.get_referents(awaitable):
        if isinstance(each, (CoroutineType, GeneratorType, AsyncGeneratorType, asyncio.Future)):
            return each
    return None


def _branches(waiter: Any, frames: list[tuple[FrameType, int]]) -> list[asyncio.Task[Any]]:
    """The tasks that have to end before these frames are over, as far as they can be found."""
    unseen: list[Any] = [waiter]
    for frame, _ in frames:
        unseen += _tasks_of(frame)
    known: dict[int, Any] = {}
    while unseen:
        each = unseen.pop(0)
        if isinstance(each, asyncio.Future) and id(each) not in known:
            known[id(each)] = each
            if not isinstance(each, asyncio.Task):
                unseen += [*getattr(each, "_children", ()), *_shielded(each)]  # of `gather`; what may be one again
    return [each for each in known.values() if isinstance(each, asyncio.Task)]


def _tasks_of(frame: FrameType) -> list[Any]:
    # Only where there is something to be found: reading the locals of a frame keeps them alive until it ends.
    names, module = frame.f_code.co_names, frame.f_globals.get("__name__")
    if "TaskGroup" in names or "create_task_group" in names:
        groups = [each for each in frame.f_locals.values() if _is_group(each)]
        return [task for group in groups for task in _copied(getattr(group, "_tasks", ()))]
    if module in _TASK_GROUPS and frame.f_code.co_name in ("__aexit__", "_aexit"):
        return _copied(getattr(frame.f_locals.get("self"), "_tasks", ()))
    if module == "asyncio.tasks" and frame.f_code.co_name == "_wait":
        return _copied(frame.f_locals.get("fs", ()))
    if module == "asyncio.tasks" and frame.f_code.co_name == "wait_for":
        return [frame.f_locals.get("fut")]
    return []


def _is_group(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "TaskGroup" and kind.__module__ in _TASK_GROUPS


def _copied(tasks: Iterable[Any]) -> list[Any]:
    for _ in range(3):
        try:
            return list(tasks)
        except RuntimeError:  # another thread has changed it meanwhile
            continue
    return []


def _shielded(waiter: asyncio.Future[Any]) -> list[Any]:
    """The future behind `asyncio.shield`: only a callback of the outer one knows it."""
    found: list[Any] = []
    for callback, _ in getattr(waiter, "_callbacks", None) or ():
        if not getattr(callback, "__qualname__", "").startswith("shield."):
            continue
        for cell in getattr(callback, "__closure__", None) or ():
            try:
                found.append(cell.cell_contents)
            except ValueError:  # not set yet
                continue
    return found


def _code(awaitable: Coroutine[Any, Any, Any] | Generator[Any, Any, Any] | AsyncGenerator[Any, Any] | None) -> Any:
    return getattr(awaitable, "cr_code", None) or getattr(awaitable, "gi_code", None)

"""Where coroutines are, through their awaits; what faulthandler says; answers of a bounded size."""

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
import pytest

from common.wire import encode
from worker_service.interrupts import CoroutineInterrupt
from worker_service.runtimes import awaits
from worker_service.runtimes.awaits import frame_lines, task_lines, thread_frames
from worker_service.runtimes.stack_channel import frames_of
from worker_service.stacks import CUT, TaskStack, bounded


async def leaf() -> None:
    await asyncio.Event().wait()


async def generate() -> AsyncIterator[int]:
    await leaf()
    yield 1


async def iterate() -> None:
    async for _ in generate():
        pass


@contextlib.asynccontextmanager
async def managed() -> AsyncIterator[None]:
    await leaf()
    yield


async def enter() -> None:
    async with managed():
        pass


async def group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leaf(), name="child")


async def inside_of_a_group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leaf(), name="child")
        await asyncio.sleep(600)


async def gather() -> None:
    await asyncio.gather(leaf(), asyncio.shield(asyncio.create_task(leaf())))


async def another_task() -> None:
    await asyncio.create_task(leaf(), name="child")


async def wait() -> None:
    await asyncio.wait([asyncio.create_task(leaf(), name="child")])


async def wait_for() -> None:
    await asyncio.wait_for(leaf(), 600)


async def shield() -> None:
    await asyncio.shield(asyncio.create_task(leaf(), name="child"))


async def wait_for_gather() -> None:
    await asyncio.wait_for(asyncio.gather(leaf(), leaf()), 600)


async def shielded_gather() -> None:
    await asyncio.shield(asyncio.gather(leaf(), leaf()))


async def gathered_gathers() -> None:
    await asyncio.gather(asyncio.gather(leaf(), leaf()), asyncio.shield(asyncio.gather(leaf())))


async def anyio_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leaf)


async def inside_of_an_anyio_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leaf)
        await asyncio.sleep(600)


async def interrupted() -> None:
    await CoroutineInterrupt().run(iterate())


async def itself() -> None:
    async with asyncio.TaskGroup() as tasks:
        me = asyncio.current_task()
        assert me is not None

        async def waits_for_its_parent() -> None:
            await asyncio.wait([me, asyncio.create_task(leaf(), name="child")])

        tasks.create_task(waits_for_its_parent())


@contextlib.asynccontextmanager
async def suspended(function: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.Task[None]]:
    """A task of `function` that has come as far as it comes."""
    task = asyncio.create_task(function())
    for _ in range(10):
        await asyncio.sleep(0)
    try:
        yield task
    finally:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for each in rest:
            each.cancel()
        await asyncio.wait(rest)


@pytest.mark.parametrize(
    ("function", "leaves"),
    [
        (leaf, 1), (iterate, 1), (enter, 1), (group, 1), (inside_of_a_group, 1), (gather, 2), (another_task, 1),
        (wait, 1), (wait_for, 1), (shield, 1), (interrupted, 1), (itself, 1), (wait_for_gather, 2),
        (shielded_gather, 2), (gathered_gathers, 3), (anyio_group, 1), (inside_of_an_anyio_group, 1),
    ],
)  # fmt: skip
async def test_a_suspended_task_is_followed_to_its_innermost_await(
    function: Callable[[], Coroutine[Any, Any, None]], leaves: int
) -> None:
    async with suspended(function) as task:
        # From another thread, as the worker does it.
        lines = await asyncio.to_thread(task_lines, task, lambda _: None)
    text = "\n".join(lines)
    assert text.count("in leaf: await asyncio.Event().wait()") == leaves, text
    assert text.count("locks.py:") == leaves, text
    assert "awaits Future" in lines[-1] or function in (inside_of_a_group, inside_of_an_anyio_group)
    if function is not interrupted:
        assert f"in {function.__name__}:" in lines[0] or function is leaf
    else:
        assert "in iterate:" in lines[0], "the frames around the function are left out"


class TaskGroup:
    """A user's own class of that name."""

    @property
    def _tasks(self) -> Any:
        raise RuntimeError("not yours")


async def with_a_group_of_its_own() -> None:
    group = TaskGroup()
    await leaf()
    del group


async def test_a_class_of_that_name_is_not_touched() -> None:
    async with suspended(with_a_group_of_its_own) as task:
        lines = await asyncio.to_thread(task_lines, task, lambda _: None)
    assert "in leaf" in "\n".join(lines)


async def test_a_task_that_has_ended_or_not_begun() -> None:
    task = asyncio.create_task(leaf())
    assert "in leaf" in task_lines(task, lambda _: None)[0]
    task.cancel()
    await asyncio.wait([task])
    assert task_lines(task, lambda _: None) == []


async def test_many_children_are_counted() -> None:
    async def many() -> None:
        await asyncio.gather(*(leaf() for _ in range(awaits.MOST_BRANCHES + 7)))

    async with suspended(many) as task:
        lines = task_lines(task, lambda _: None)
    assert sum("in leaf" in line for line in lines) == awaits.MOST_BRANCHES
    assert lines[-1] == "awaits 7 more tasks"


async def test_a_look_keeps_nothing_alive() -> None:
    class Large:
        pass

    async def holds() -> None:
        held = Large()
        await asyncio.sleep(0.0)
        del held
        await leaf()

    async with suspended(holds) as task:
        task_lines(task, lambda _: None)
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, Large)]


async def test_the_task_that_runs_at_the_moment_is_read_from_its_thread() -> None:
    lines: list[str] = []

    async def busy() -> None:
        def innermost() -> None:
            me = asyncio.current_task()
            assert me is not None
            lines.extend(task_lines(me, lambda _: sys._getframe()))

        innermost()

    await asyncio.create_task(busy())
    assert "in test_the_task_that_runs_at_the_moment_is_read_from_its_thread.<locals>.busy" in lines[0]
    assert any("innermost" in line for line in lines)


def test_a_deep_stack_is_cut_from_outside() -> None:
    found: list[str] = []

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            found.extend(frame_lines(thread_frames(sys._getframe())))

    thread = threading.Thread(target=deep, args=(300,))
    thread.start()
    thread.join()
    assert len(found) == awaits.DEEPEST + 1
    assert found[0].endswith("more)")
    assert "frame_lines(" in found[-1]


def test_what_faulthandler_writes() -> None:
    text = """Stack (most recent call first):
  File "/app/my tasks.py", line 12 in <lambda>
  File "/app/it's", line 7 in "quoted"
  File "PIPELINE", line 90 in run_plain
  File "/elsewhere/zygote.py", line 1 in serve
  ...
""".replace("PIPELINE", next(iter(each for each in awaits.AROUND if "pipeline" in each)))
    assert frames_of(text) == ['/app/it\'s:7 in "quoted"', "/app/my tasks.py:12 in <lambda>"]
    assert frames_of("") == frames_of("\x00 nothing like it\n") == []


def stack(number: int, frames: int, width: int = 100) -> TaskStack:
    return TaskStack(f"id{number}", "task", "default", 1, 1.0, "thread", False, [f"{n}" * width for n in range(frames)])


def test_a_small_answer_is_whole() -> None:
    tasks = [stack(number, 5) for number in range(10)]
    answer = bounded(tasks)
    assert (answer.tasks, answer.cut) == (tasks, False)


@pytest.mark.parametrize(("count", "frames"), [(1, 100_000), (10, 2_000), (1_000, 100), (10_000, 20), (20_000, 0)])
def test_a_large_answer_is_cut_and_says_so(count: int, frames: int) -> None:
    most = 100_000
    answer = bounded([stack(number, frames) for number in range(count)], most)
    assert answer.cut
    assert most / 3 < len(encode(answer)) <= most + 200
    assert answer.tasks
    first = answer.tasks[0].stack
    if len(first) > 1:
        assert first[0] == CUT
        assert first[-1] == f"{frames - 1}" * 100, "the innermost frames are kept"


def test_one_large_stack_costs_the_small_ones_nothing() -> None:
    small = [stack(number, 3) for number in range(20)]
    answer = bounded([*small[:10], stack(99, 5000), *small[10:]], 100_000)
    assert answer.cut
    assert [each.id for each in answer.tasks if not each.stack[0].startswith("(cut")] == [each.id for each in small]

"""What `ctx` says, and that it says so only where a task runs."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

import pytest

import common
from common.context import Child, TaskContext, current
from common.errors import ConnectionLost, InvalidTask, NoTask
from common.questions import Progress
from common.tasks import call
from common.wire import Assignment, TaskMessage, decode, encode

ctx = common.ctx


class Surroundings:
    """Notes what it is asked for; what is submitted is confirmed by the test."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, Progress]] = []
        self.submitted: list[tuple[TaskMessage, Future[None]]] = []

    def progress(self, lease: str, progress: Progress) -> None:
        self.reports.append((lease, progress))

    def submit(self, message: TaskMessage) -> Future[None]:
        done: Future[None] = Future()
        self.submitted.append((message, done))
        return done


@pytest.fixture
def surroundings() -> Surroundings:
    return Surroundings()


@pytest.fixture
def here(surroundings: Surroundings) -> TaskContext:
    """The context of a task that runs in this test, as long as it takes."""
    context = TaskContext(Assignment("the id", "work", "the lease", 3), "email", surroundings)
    current.set(context)
    return context


def test_without_a_task_it_says_so() -> None:
    def look() -> None:
        for attribute in ("task_id", "name", "queue", "attempt", "deadline", "cancelled", "log"):
            with pytest.raises(NoTask, match="no task runs here"):
                getattr(ctx, attribute)
        with pytest.raises(NoTask):
            ctx.progress(1)
        with pytest.raises(NoTask):
            ctx.submit("add", 1, 2)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()


def test_it_says_what_the_task_is(here: TaskContext) -> None:
    assert (ctx.task_id, ctx.name, ctx.queue, ctx.attempt) == ("the id", "work", "email", 3)
    assert (ctx.deadline, ctx.cancelled) == (None, False)
    here.deadline, here.cancelled = 1733200000.0, True
    assert (ctx.deadline, ctx.cancelled) == (1733200000.0, True)


def test_its_log_is_bound_to_the_task(here: TaskContext, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="warren.task"):
        ctx.log.info("resized", extra={"pixels": 7, "task": "another"})
    (line,) = caplog.records
    assert (line.task_id, line.queue, line.attempt, line.pixels) == ("the id", "email", 3, 7)  # type: ignore[attr-defined]


def test_progress_is_bounded_and_finite(here: TaskContext, surroundings: Surroundings) -> None:
    ctx.progress(1, 10, "x" * 1000)
    ((lease, said),) = surroundings.reports
    assert lease == "the lease"
    assert (said.done, said.total, said.note) == (1.0, 10.0, "x" * 200)
    ctx.progress(1, note="\udcff.txt")
    _, said = surroundings.reports[-1]
    assert said.note == "\\udcff.txt", "a file's name that is not UTF-8"
    assert encode(said)
    assert decode(Progress, encode(said)) == said
    wrong: Any
    for wrong in (float("nan"), float("inf"), 10**400, None):
        with pytest.raises(ValueError, match="finite"):
            ctx.progress(wrong)


async def test_a_child_is_there_when_it_is_awaited(here: TaskContext, surroundings: Surroundings) -> None:
    child = ctx.submit(call("add", 1, 2).options(delay=60, queue="math"))
    ((message, confirmed),) = surroundings.submitted
    assert (message.id, message.task, message.queue) == (child.id, "add", "math")
    assert message.options is not None
    assert (message.options.parent, message.options.delay) == ("the id", 60.0)
    waiting = asyncio.ensure_future(_await(child))
    await asyncio.sleep(0)
    assert not waiting.done()
    confirmed.set_result(None)
    assert await waiting == child.id
    assert await child == child.id
    assert here.children == [child]


async def test_a_child_that_is_not_confirmed_says_so(here: TaskContext, surroundings: Surroundings) -> None:
    child = ctx.submit("add", 1, 2)
    surroundings.submitted[0][1].set_exception(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost):
        await child
    with pytest.raises(InvalidTask):
        ctx.submit("no name")
    assert here.children == [child]


def test_a_plain_function_waits_for_its_child(here: TaskContext, surroundings: Surroundings) -> None:
    children: list[Child] = []
    context = copy_context()
    thread = threading.Thread(target=lambda: context.run(lambda: children.append(ctx.submit("add", 1, 2))))
    thread.start()
    while not surroundings.submitted:
        thread.join(0.005)
    thread.join(0.05)
    assert thread.is_alive()
    surroundings.submitted[0][1].set_result(None)
    thread.join()
    assert [child.id for child in children] == [surroundings.submitted[0][0].id]


async def _await(child: Child) -> str:
    return await child

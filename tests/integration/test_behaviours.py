"""What a task does in its life, once in `WarrenTest` and once on RabbitMQ: users' tests must not be told another story.

A test that passes in one world only has found a fault of the harness, or of Warren.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from common import AsyncHandle, Fail, Retry, TaskCancelled, TaskExpired, TaskFailed, call
from common.wire import ErrorKind
from tests.support import behaviour_tasks as tasks
from tests.support.waiting import eventually
from tests.support.worlds import SLOTS, World, memory_world, real_world

LONG = 20.0
"""Seconds within which anything happens that happens at all."""


@pytest.fixture(params=["memory", "rabbitmq"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[World]:
    """The world, not entered."""
    if request.param == "memory":
        return memory_world()
    return real_world(request.getfixturevalue("broker"), request.getfixturevalue("namespace"), tmp_path)


@pytest.fixture
async def world(opened: AbstractAsyncContextManager[World], token: str) -> AsyncIterator[World]:
    """A world in which the test's gate is opened at the end."""
    async with opened as entered:
        yield entered
        tasks.gates[token].set()


@pytest.fixture
def token() -> Iterator[str]:
    """Names what this test's tasks do."""
    name = secrets.token_hex(4)
    yield name
    tasks.gates.pop(name).set()
    tasks.seen.pop(name, None)


def is_real(world: World) -> bool:
    return type(world).__name__ == "RealWorld"


async def failure(handle: AsyncHandle[Any]) -> TaskFailed:
    with pytest.raises(TaskFailed) as raised:
        await handle.result(timeout=LONG)
    return raised.value


async def running(world: World, token: str, count: int = 1) -> None:
    await eventually(lambda: tasks.seen[token].count("begun") >= count)


async def fill(world: World, token: str) -> list[AsyncHandle[str]]:
    """Take all slots of the worker until the gate opens."""
    handles = [await world.client.submit(tasks.hold, token) for _ in range(SLOTS)]
    await running(world, token, SLOTS)
    return handles


async def reaches(handle: AsyncHandle[Any], *states: str) -> None:
    deadline = time.monotonic() + LONG
    while (now := (await handle.status()).state) not in states:
        assert time.monotonic() < deadline, f"it is {now}, not {states}"


async def test_a_result(world: World) -> None:
    handle = await world.client.submit(tasks.add, 2, 3)
    assert await handle.result(timeout=LONG) == 5
    known = await handle.status()
    assert (known.state, known.attempt, known.failures, known.error) == ("succeeded", 1, 0, None)
    assert known.submitted_at <= known.dispatched_at <= known.finished_at


async def test_many_results(world: World) -> None:
    handles = await world.client.submit_many(call(tasks.add, number, number) for number in range(200))
    assert [await handle.result(timeout=LONG) for handle in handles] == [2 * number for number in range(200)]


async def test_a_failure_says_what_happened_there(world: World, token: str) -> None:
    error = await failure(await world.client.submit(tasks.fail, token, "what a pity"))
    assert (error.kind, error.type, error.message) == (ErrorKind.EXCEPTION, "ValueError", "what a pity")
    assert "behaviour_tasks.py" in error.traceback
    assert "raise ValueError(text)" in error.traceback
    assert tasks.seen[token] == ["what a pity"]


@pytest.mark.parametrize("arguments", [("no number", 1), (1,), (1, 2, 3)])
async def test_wrong_arguments_fail_at_once_and_are_not_retried(world: World, arguments: tuple[Any, ...]) -> None:
    handle = await world.client.options(retries=5).submit("behave.add", *arguments)
    error = await failure(handle)
    assert error.kind == ErrorKind.BAD_ARGUMENTS
    assert [each.attempt for each in (await handle.status()).attempts] == [1]


@pytest.mark.parametrize(
    "function",
    [tasks.misjudge, tasks.misjudge_in_thread, tasks.misjudge_in_process],
    ids=["coroutine", "thread", "process"],
)
async def test_a_wrong_result_fails_with_the_path_of_the_fault_and_is_not_retried(world: World, function: Any) -> None:
    handle = await world.client.submit(function, "two")
    error = await failure(handle)
    assert error.kind == ErrorKind.BAD_RESULT
    assert "Expected `int`, got `str` - at `$[1]`" in error.message
    assert (await handle.status()).attempt == 1


async def test_retries_wait_for_the_backoff_and_are_remembered(world: World, token: str) -> None:
    handle = await world.client.submit(tasks.fail_at_first, token, 2)
    await world.advance(0.1)
    await reaches(handle, "scheduled")
    await world.advance(0.5)
    assert await handle.result(timeout=LONG) == 3
    known = await handle.status()
    assert (known.attempt, known.failures) == (3, 2)
    assert [(each.attempt, each.error and each.error.message) for each in known.attempts] == [
        (1, "failure 1"),
        (2, "failure 2"),
    ]
    times = [*(each.at for each in known.attempts), known.finished_at]
    assert [later - earlier >= 0.19 for earlier, later in pairwise(times)] == [True, True]


async def test_retries_end(world: World, token: str) -> None:
    handle = await world.client.options(retries=1).submit(tasks.fail_at_first, token, 5)
    await world.advance(0.3)
    assert (await failure(handle)).message == "failure 2"
    assert len(tasks.seen[token]) == 2


@pytest.mark.parametrize(
    ("kind", "runs"),
    [("OSError", 3), ("ConnectionResetError", 3), ("FileNotFoundError", 1), ("KeyError", 1)],
)
async def test_only_what_is_worth_it_is_retried(world: World, token: str, kind: str, runs: int) -> None:
    handle = await world.client.submit(tasks.raise_as, token, kind)
    await world.advance(0.5)
    assert (await failure(handle)).type == kind
    assert len(tasks.seen[token]) == runs


async def test_the_submission_s_word_on_retries_counts(world: World, token: str) -> None:
    options = world.client.options(retries=1, retry_on=("KeyError",), give_up_on=("OSError",))
    retried = await options.submit(tasks.raise_as, token, "KeyError")
    await world.advance(0.3)
    await failure(retried)
    assert len(tasks.seen[token]) == 2
    given_up = await options.submit(tasks.raise_as, token, "OSError")
    await failure(given_up)
    assert len(tasks.seen[token]) == 3


async def test_a_task_function_says_when_it_is_to_be_run_again(world: World, token: str) -> None:
    handle = await world.client.submit(tasks.ask_again, token, 0.4)
    await world.advance(0.5)
    assert await handle.result(timeout=LONG) == 2
    first, second = map(float, tasks.seen[token])
    assert 0.4 <= second - first < 5
    (attempt,) = (await handle.status()).attempts
    assert attempt.error is not None
    assert (attempt.error.kind, attempt.error.type) == (ErrorKind.RETRY, Retry.__name__)


async def test_a_task_function_gives_up(world: World, token: str) -> None:
    error = await failure(await world.client.submit(tasks.give_up, token))
    assert (error.kind, error.type, error.message) == (ErrorKind.GAVE_UP, Fail.__name__, "no use")
    assert tasks.seen[token] == ["run"]


async def test_a_delay(world: World, token: str) -> None:
    handle = await world.client.options(delay=0.5).submit(tasks.note, token, "late")
    await reaches(handle, "scheduled")
    waiting = await handle.status()
    assert waiting.due_at == pytest.approx(waiting.submitted_at + 0.5, abs=0.05)
    assert tasks.seen[token] == []
    await world.advance(0.6)
    assert await handle.result(timeout=LONG) == "late"
    assert (await handle.status()).dispatched_at >= waiting.due_at


async def test_a_moment_in_the_past_is_now(world: World) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert await (await world.client.options(run_at=yesterday).submit(tasks.add, 1, 1)).result(timeout=LONG) == 2


async def test_what_is_not_started_in_time_expires(world: World, token: str) -> None:
    await fill(world, token)
    options = world.client.options(expires_in=0.3)
    behind = await options.submit(tasks.note, token, "never")
    unserved = await world.client.options(expires_in=0.3, queue="elsewhere").submit(tasks.note, token, "never")
    await world.advance(0.5)
    for handle in (behind, unserved):
        with pytest.raises(TaskExpired):
            await handle.result(timeout=LONG)
        assert (await handle.status()).state == "expired"
    assert "never" not in tasks.seen[token]


async def test_what_was_started_in_time_does_not_expire(world: World, token: str) -> None:
    handle = await world.client.options(expires_in=0.3).submit(tasks.hold, token)
    await running(world, token)
    await world.advance(0.4)
    tasks.gates[token].set()
    assert await handle.result(timeout=LONG) == token


@pytest.mark.parametrize("function", [tasks.hold, tasks.hold_in_thread], ids=["coroutine", "thread"])
async def test_a_timeout_is_raised_in_the_task_function(world: World, token: str, function: Any) -> None:
    handle = await world.client.options(timeout=0.3).submit(function, token)
    await world.advance(0.4)
    error = await failure(handle)
    assert (error.kind, error.type) == (ErrorKind.TIMEOUT, "TaskTimeout")
    assert "common.errors.TaskTimeout" in error.traceback
    assert tasks.seen[token] == ["begun", "TaskTimeout"]


async def test_a_timeout_is_retried_as_any_failure(world: World, token: str) -> None:
    handle = await world.client.options(timeout=0.2, retries=1, backoff=tasks.SHORTLY).submit(tasks.hold, token)
    await world.advance(0.8)
    assert (await failure(handle)).kind == ErrorKind.TIMEOUT
    assert tasks.seen[token].count("begun") == 2


async def test_a_hard_timeout_ends_what_does_not_mind(world: World, token: str) -> None:
    handle = await world.client.options(timeout=0.2, hard_timeout=0.4).submit(tasks.never_mind, token)
    await world.advance(0.9)
    assert (await failure(handle)).kind == ErrorKind.TIMEOUT
    assert tasks.seen[token][-1] == "CancelledError"


@pytest.mark.parametrize(
    ("function", "sees"),
    [(tasks.hold, "CancelledError"), (tasks.hold_in_thread, "TaskTimeout")],
    ids=["coroutine", "thread"],
)
async def test_a_hard_timeout_alone_ends_it_too(world: World, token: str, function: Any, sees: str) -> None:
    handle = await world.client.options(hard_timeout=0.3).submit(function, token)
    await running(world, token)
    await world.advance(0.4)
    error = await failure(handle)
    assert (error.kind, error.type) == (ErrorKind.TIMEOUT, "TaskTimeout")
    assert "after its hard timeout of 0.3 s" in error.message
    await eventually(lambda: tasks.seen[token] == ["begun", sees])


@pytest.mark.parametrize(
    ("function", "sees"),
    [(tasks.hold_stubbornly, "CancelledError"), (tasks.hold_stubbornly_in_thread, "TaskTimeout")],
    ids=["coroutine", "thread"],
)
async def test_what_ignores_its_hard_timeout_fails_all_the_same_and_loses_its_slot(
    world: World, token: str, function: Any, sees: str
) -> None:
    options = world.client.options(hard_timeout=1.0)
    stuck = [await options.submit(function, token) for _ in range(SLOTS)]
    await running(world, token, SLOTS)
    await world.advance(1.6)
    for handle in stuck:
        assert (await failure(handle)).kind == ErrorKind.TIMEOUT
    assert await (await world.client.submit(tasks.add, 1, 1)).result(timeout=LONG) == 2
    assert await (await world.client.submit(tasks.note, token, "a thread too")).result(timeout=LONG) == "a thread too"
    tasks.gates[token].set()
    await eventually(lambda: tasks.seen[token].count("ended") == SLOTS)
    assert tasks.seen[token].count(sees) == SLOTS
    for handle in stuck:
        assert (await handle.status()).state == "failed", "its late end changes nothing"


async def test_a_hard_timeout_is_retried_as_any_failure(world: World, token: str) -> None:
    options = world.client.options(hard_timeout=0.2, retries=1, backoff=tasks.SHORTLY)
    handle = await options.submit(tasks.hold, token)
    await world.advance(0.9)
    assert (await failure(handle)).kind == ErrorKind.TIMEOUT
    assert tasks.seen[token] == ["begun", "CancelledError"] * 2


async def test_what_is_scheduled_is_cancelled(world: World, token: str) -> None:
    handle = await world.client.options(delay=0.3).submit(tasks.note, token, "never")
    assert await handle.cancel() == "cancelled"
    with pytest.raises(TaskCancelled):
        await handle.result(timeout=LONG)
    await world.advance(0.5)
    assert tasks.seen[token] == []


async def test_what_waits_is_cancelled(world: World, token: str) -> None:
    held = await fill(world, token)
    behind = [await world.client.submit(tasks.note, token, "never") for _ in range(3)]
    unserved = await world.client.options(queue="elsewhere").submit(tasks.note, token, "never")
    for handle in (*behind, unserved):
        assert await handle.cancel() == "cancelled"
    tasks.gates[token].set()
    assert [await handle.result(timeout=LONG) for handle in held] == [token] * SLOTS
    assert await (await world.client.submit(tasks.add, 1, 1)).result(timeout=LONG) == 2
    assert "never" not in tasks.seen[token]


@pytest.mark.parametrize(
    ("function", "sees"), [(tasks.hold, "CancelledError"), (tasks.hold_in_thread, "cancelled")], ids=["loop", "thread"]
)
async def test_what_runs_is_cancelled_and_told(world: World, token: str, function: Any, sees: str) -> None:
    handle = await world.client.submit(function, token)
    await running(world, token)
    assert await handle.cancel() == "cancelled"
    with pytest.raises(TaskCancelled):
        await handle.result(timeout=LONG)
    await eventually(lambda: tasks.seen[token] == ["begun", sees])
    assert (await handle.status()).state == "cancelled"
    assert await (await world.client.submit(tasks.add, 1, 1)).result(timeout=LONG) == 2


async def test_a_cancel_that_comes_too_late_is_told_what_came_first(world: World, token: str) -> None:
    good, bad = await world.client.submit(tasks.add, 1, 1), await world.client.submit(tasks.fail, token, "bad")
    assert await good.result(timeout=LONG) == 2
    await failure(bad)
    assert (await good.cancel(), await bad.cancel()) == ("succeeded", "failed")
    assert await world.client.cancel(ids=[good.id, bad.id]) == {good.id: "succeeded", bad.id: "failed"}


async def test_a_race_of_cancel_and_end_has_one_winner(world: World, token: str) -> None:
    handles = [await world.client.submit(tasks.hold, token) for _ in range(SLOTS)]
    await running(world, token, SLOTS)
    tasks.gates[token].set()
    for handle in handles:
        said = await handle.cancel()
        assert said in ("cancelled", "succeeded")
        if said == "succeeded":
            assert await handle.result(timeout=LONG) == token
        else:
            with pytest.raises(TaskCancelled):
                await handle.result(timeout=LONG)
        assert (await handle.status()).state == said


async def test_an_idempotency_key_is_one_task_with_two_ids(world: World, token: str) -> None:
    options = world.client.options(idempotency_key=token)
    first, second = await options.submit(tasks.note, token, "once"), await options.submit(tasks.note, token, "twice")
    assert first.id != second.id
    assert [await handle.result(timeout=LONG) for handle in (first, second)] == ["once", "once"]
    third = await options.submit(tasks.note, token, "again")
    assert await third.result(timeout=LONG) == "once"
    assert tasks.seen[token] == ["once"]
    assert [(await handle.status()).alias_of for handle in (first, second, third)] == ["", first.id, first.id]


async def test_a_unique_name_is_free_again_when_its_task_has_ended(world: World, token: str) -> None:
    options = world.client.options(unique=token)
    first, second = await options.submit(tasks.hold, token), await options.submit(tasks.hold, token)
    await running(world, token)
    tasks.gates[token].set()
    assert [await handle.result(timeout=LONG) for handle in (first, second)] == [token, token]
    assert tasks.seen[token] == ["begun", "ended"]
    third = await options.submit(tasks.hold, token)
    assert await third.result(timeout=LONG) == token
    assert tasks.seen[token] == ["begun", "ended"] * 2
    assert (await third.status()).alias_of == ""


async def test_cancelling_by_either_id_cancels_the_one_task(world: World, token: str) -> None:
    options = world.client.options(unique=token, delay=LONG)
    first, second = await options.submit(tasks.note, token, "no"), await options.submit(tasks.note, token, "no")
    assert await second.cancel() == "cancelled"
    for handle in (first, second):
        with pytest.raises(TaskCancelled):
            await handle.result(timeout=LONG)
        assert (await handle.status()).state == "cancelled"


async def test_progress_is_told_while_it_runs(world: World, token: str) -> None:
    handle = await world.client.submit(tasks.report, token)
    await running(world, token)
    deadline = time.monotonic() + LONG
    while (progress := await handle.progress()) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert (progress.done, progress.total, progress.note) == (3, 10, "at work")
    assert progress.at == pytest.approx(time.time(), abs=LONG)
    tasks.gates[token].set()
    await handle.result(timeout=LONG)
    assert await handle.progress() is None


@pytest.mark.parametrize("function", [tasks.beget, tasks.beget_in_thread], ids=["loop", "thread"])
async def test_a_child_knows_its_parent(world: World, function: Any) -> None:
    parent = await world.client.submit(function, 21)
    child = world.client.handle(await parent.result(timeout=LONG))
    assert await child.result(timeout=LONG) == 42
    assert (await child.status()).parent == parent.id
    assert (await parent.status()).parent == ""


async def test_labels_and_keys_find_tasks_again(world: World, token: str) -> None:
    options = world.client.options(labels={"batch": token}, key="acme")
    good, bad = await options.submit(tasks.add, 1, 1), await options.submit(tasks.fail, token, "bad")
    other = await world.client.options(labels={"batch": "other"}).submit(tasks.add, 1, 1)
    await good.result(timeout=LONG)
    await failure(bad)
    await other.result(timeout=LONG)

    async def found(**which: Any) -> list[str]:
        return [each.id async for each in world.client.tasks(**which)]

    assert await found(labels={"batch": token}) == [bad.id, good.id]
    assert await found(key="acme", state="failed") == [bad.id]
    assert await found(task="behave.add") == [other.id, good.id]
    assert await found(task="behave.add", limit=1) == [other.id]
    known = await good.status()
    assert (known.labels, known.key) == ({"batch": token}, "acme")


async def test_dead_letters_are_listed_and_replayed_once(world: World, token: str) -> None:
    handles = [await world.client.submit(tasks.fail, token, text) for text in ("one", "two")]
    for handle in handles:
        await failure(handle)
    letters = {letter.id: letter async for letter in world.client.dead.list()}
    assert set(letters) == {handle.id for handle in handles}
    assert {(letter.reason, letter.task) for letter in letters.values()} == {("exception", "behave.fail")}
    (replayed,) = await world.client.dead.replay(handles[0].id)
    again = world.client.handle(replayed.replayed_as)
    assert (await failure(again)).message == "one"
    assert (await again.status()).replay_of == handles[0].id
    (same,) = await world.client.dead.replay(handles[0].id)
    assert same.replayed_as == replayed.replayed_as
    assert tasks.seen[token] == ["one", "two", "one"]


async def test_task_functions_in_processes(world: World) -> None:
    number, pid = await (await world.client.submit(tasks.in_process, 7)).result(timeout=LONG)
    assert number == 7
    assert (pid == os.getpid()) is not is_real(world)  # documented: the harness starts no processes
    assert await (await world.client.submit(tasks.awaited_in_process, 8)).result(timeout=LONG) == 8
    error = await failure(await world.client.submit(tasks.process_fails))
    assert (error.kind, error.type, error.message) == (ErrorKind.EXCEPTION, "LookupError", "in a process")


async def test_what_is_queued_goes_by_priority(world: World, token: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=0.5)
    numbers = [3, 9, 0, 5, 7]
    handles = [
        await world.client.options(run_at=at, priority=number, queue="default").submit(tasks.note, token, str(number))
        for number in numbers
    ]
    await world.advance(0.6)
    for handle in handles:
        await handle.result(timeout=LONG)
    assert tasks.seen[token] == ["9", "7", "5", "3", "0"]


async def test_a_function_that_no_worker_knows(world: World) -> None:
    handle = await world.client.submit("behave.nobody")
    await world.advance(0.5)
    error = await failure(handle)
    assert (error.kind, error.type) == (ErrorKind.UNKNOWN_FUNCTION, "UnknownFunction")

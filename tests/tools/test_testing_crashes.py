"""A service that crashes inside `WarrenTest`: the test that waits ends at once, and says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from common import failpoints
from common.errors import HarnessError
from common.failpoints import FailpointError
from common.lifecycle import Retired
from common.tasks import registry
from common.testing import WarrenTest
from tests.support import behaviour_tasks as tasks
from tests.support.waiting import eventually

SOON = 5.0
"""Seconds; a wait that is not ended takes four times as long."""
LONG = 20.0
CRASH = "store.after_commit:raise"
"""The dispatcher does not live on after it."""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def harness(**worker: Any) -> WarrenTest:
    names = ("behave.add", "behave.hold_stubbornly")
    return WarrenTest({name: registry[name] for name in names}, settings={"worker": worker})


async def played(test: Callable[[WarrenTest], Awaitable[None]], **worker: Any) -> HarnessError:
    """What the harness raises when `test` is left."""
    try:
        async with harness(**worker) as warren:
            await test(warren)
    except HarnessError as error:
        return error
    raise AssertionError("nothing was raised")


async def crash(warren: WarrenTest) -> None:
    failpoints.arm(CRASH)
    await warren.client.submit(tasks.add, 1, 1)


async def for_a_result(warren: WarrenTest) -> None:
    handle = await warren.client.options(delay=LONG).submit(tasks.add, 1, 1)
    await crash(warren)
    await handle.result(timeout=LONG)


async def for_an_event(warren: WarrenTest) -> None:
    await crash(warren)
    await asyncio.Event().wait()


async def for_the_clock(warren: WarrenTest) -> None:
    await crash(warren)
    while True:
        await warren.advance(1)


async def for_run(warren: WarrenTest) -> None:
    failpoints.arm(CRASH)
    while True:
        await warren.run(tasks.add, 1, 1)


@pytest.mark.parametrize("wait", [for_a_result, for_an_event, for_the_clock, for_run])
async def test_a_crash_ends_whatever_a_test_waits_for(wait: Callable[[WarrenTest], Awaitable[None]]) -> None:
    started = time.monotonic()
    error = await played(wait)
    assert str(error).startswith("the scheduler ended by itself (")
    assert isinstance(error.__cause__, FailpointError)
    assert time.monotonic() - started < SOON
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0, "the cancellation was the harness's own"


async def test_a_crash_that_the_test_does_not_mind_is_raised_on_leaving() -> None:
    async def does_not_mind(warren: WarrenTest) -> None:
        with suppress(asyncio.CancelledError):
            await for_an_event(warren)

    assert isinstance((await played(does_not_mind)).__cause__, FailpointError)


async def test_what_the_test_had_to_say_itself_is_kept() -> None:
    async def fails(warren: WarrenTest) -> None:
        try:
            await for_an_event(warren)
        finally:
            raise ValueError("no result")

    error = await played(fails)
    assert error.__notes__ == ["The test had failed with ValueError: no result"]
    assert isinstance(error.__cause__, FailpointError)


async def test_a_test_that_has_not_entered_the_harness_itself_is_told_as_well() -> None:
    """Where a fixture enters it, in a task that is over when the test begins."""
    warren = harness()
    await asyncio.create_task(warren.__aenter__())
    with pytest.raises(HarnessError, match="the scheduler ended by itself"):
        await for_a_result(warren)
    with pytest.raises(HarnessError):
        await warren.settle()
    with pytest.raises(HarnessError, match="the scheduler ended by itself"):
        await asyncio.create_task(warren.__aexit__(None, None, None))


async def test_somebody_else_s_cancellation_stays_one() -> None:
    entered = asyncio.Event()

    async def test() -> None:
        async with harness():
            entered.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(test())
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_worker_that_retires_is_a_crash_here() -> None:
    async def wears_it_out(warren: WarrenTest) -> None:
        await warren.client.options(hard_timeout=0.2).submit(tasks.hold_stubbornly, "retires")
        await eventually(lambda: tasks.seen["retires"])
        await warren.advance(1)
        await asyncio.Event().wait()

    try:
        error = await played(wears_it_out, max_given_up=0, timeout_grace=0.1)
    finally:
        tasks.gates["retires"].set()
    assert isinstance(error.__cause__, Retired)
    assert str(error).startswith("the worker ended by itself (worn out): ")
    assert str(error).endswith("1 task functions that were given up go on, 0 may")

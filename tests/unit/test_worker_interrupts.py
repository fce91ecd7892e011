"""`TaskTimeout` is raised in the function, once, and never in what comes after it."""

import asyncio
import ctypes
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import TaskTimeout
from worker_service.interrupts import CoroutineInterrupt, SignalInterrupt, ThreadInterrupt, TimedOut


async def interrupted(function: Any, after: float = 0.01) -> Any:
    """What comes of awaiting `function()` under an interrupt."""
    interrupt = CoroutineInterrupt()

    async def run() -> Any:
        return await interrupt.run(function())

    task = asyncio.create_task(run())
    asyncio.get_running_loop().call_later(after, interrupt.raise_in, task)
    return await task


async def test_a_coroutine_gets_it_at_its_await() -> None:
    seen: list[BaseException] = []

    async def sleep() -> None:
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            seen.append(error)
            raise

    with pytest.raises(TaskTimeout):
        await interrupted(sleep)
    assert [type(each) for each in seen] == [TimedOut]
    assert isinstance(seen[0], asyncio.CancelledError)


async def test_a_coroutine_that_catches_it_goes_on_as_if_it_had_not_been() -> None:
    async def careful() -> str:
        try:
            await asyncio.sleep(60)
        except TaskTimeout:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            return "went on"
        return "never"

    assert await interrupted(careful) == "went on"


async def test_a_lock_of_others_is_whole_after_it() -> None:
    lock = asyncio.Lock()
    await lock.acquire()

    async def wait() -> None:
        async with lock:
            pass

    first = asyncio.create_task(interrupted(wait))
    await asyncio.sleep(0)
    second = asyncio.create_task(wait())
    with pytest.raises(TaskTimeout):
        await first
    lock.release()
    async with asyncio.timeout(1.0):
        await second


async def test_results_and_errors_and_other_cancellations_pass_unchanged() -> None:
    async def give() -> int:
        await asyncio.sleep(0)
        return 7

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("own")

    assert await interrupted(give, 60.0) == 7
    with pytest.raises(ValueError, match="own"):
        await interrupted(fail, 60.0)
    task = asyncio.create_task(interrupted(lambda: asyncio.sleep(60), 60.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert not isinstance(raised.value, TaskTimeout)


def test_a_thread_gets_it_between_two_steps() -> None:
    interrupt = ThreadInterrupt()

    def spin() -> None:
        while True:
            time.sleep(0.001)

    threading.Timer(0.02, interrupt.raise_in).start()
    with pytest.raises(TaskTimeout):
        interrupt.call(spin, (), {})


def test_a_thread_that_catches_it_goes_on() -> None:
    interrupt = ThreadInterrupt()

    def careful() -> str:
        try:
            while True:
                time.sleep(0.001)
        except TaskTimeout:
            return "went on"

    timer = threading.Timer(0.02, interrupt.raise_in)
    timer.start()
    assert interrupt.call(careful, (), {}) == "went on"
    timer.join()
    interrupt.raise_in()  # it comes once


def test_it_may_come_before_the_function() -> None:
    interrupt = ThreadInterrupt()
    interrupt.raise_in()
    with pytest.raises(TaskTimeout):
        interrupt.call(pytest.fail, ("it ran",), {})


def test_it_never_comes_after_the_function() -> None:
    """A thousand times the interrupt comes at about the moment at which the function returns."""
    outcomes = []
    for number in range(1000):
        interrupt = ThreadInterrupt()
        ready = threading.Event()

        def function(ready: threading.Event = ready, number: int = number) -> int:
            ready.set()
            return sum(range(number % 50 * 20))

        def interfere(interrupt: ThreadInterrupt = interrupt, ready: threading.Event = ready) -> None:
            ready.wait()
            interrupt.raise_in()

        other = threading.Thread(target=interfere)
        other.start()
        try:
            interrupt.call(function, (), {})
            outcomes.append("returned")
        except TaskTimeout:
            outcomes.append("timed out")
        # Whatever is pending would be raised here.
        for _ in range(2000):
            pass
        other.join()
        for _ in range(2000):
            pass
    assert len(outcomes) == 1000


def test_a_function_that_is_over_waits_for_what_is_about_to_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    raising, real = threading.Event(), ctypes.pythonapi.PyThreadState_SetAsyncExc

    def slowly(ident: Any, kind: Any) -> Any:
        raising.set()
        time.sleep(0.05)
        return real(ident, kind)

    interrupt = ThreadInterrupt()
    monkeypatch.setattr(ctypes, "pythonapi", SimpleNamespace(PyThreadState_SetAsyncExc=slowly))
    threading.Timer(0.01, interrupt.raise_in).start()
    with pytest.raises(TaskTimeout):
        interrupt.call(raising.wait, (), {})


def test_a_signal_ends_a_blocking_call() -> None:
    started = time.monotonic()
    with pytest.raises(TaskTimeout):
        SignalInterrupt(0.05).call(time.sleep, (30.0,), {})
    assert time.monotonic() - started < 10.0
    assert SignalInterrupt(30.0).call(int, ("7",), {}) == 7

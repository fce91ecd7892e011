"""A service starts, drains and stops in order, ends when a part dies, and answers signals."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from common.background import Background, Periodic, StrayCancellation
from common.lifecycle import EXIT_CUT_SHORT, EXIT_FAILED, EXIT_OK, EXIT_WORN_OUT, Service, run
from worker_service.acks import Acks
from worker_service.runtimes.handover import Handover

Step = Callable[[], Awaitable[None]]


async def _nothing() -> None:
    pass


async def _for_ever() -> None:
    await asyncio.Event().wait()


class Recorder:
    """A part that notes what it is told, and can do something then."""

    def __init__(self, name: str, journal: list[str], **steps: Step) -> None:
        self.name = name
        self._journal = journal
        self._steps = steps

    async def _step(self, verb: str) -> None:
        self._journal.append(f"{self.name}.{verb}")
        await self._steps.get(verb, _nothing)()

    async def start(self) -> None:
        await self._step("start")

    async def drain(self) -> None:
        await self._step("drain")

    async def stop(self) -> None:
        await self._step("stop")


class Journal(list[str]):
    """What happened, in order; `reached` waits until something has."""

    async def reached(self, entry: str) -> None:
        async with asyncio.timeout(5):
            while entry not in self:  # noqa: ASYNC110 - parts only append, as they would to any list
                await asyncio.sleep(0.001)


async def test_parts_start_in_order_and_drain_and_stop_in_reverse() -> None:
    journal = Journal()
    service = Service("test")
    for name in ("a", "b"):
        service.add(Recorder(name, journal))
    running = asyncio.create_task(service.run())
    await journal.reached("b.start")
    service.drain()
    assert await running == EXIT_OK
    assert journal == ["a.start", "b.start", "b.drain", "a.drain", "b.stop", "a.stop"]


async def test_the_stop_order_can_be_named_and_draining_is_announced_first() -> None:
    journal = Journal()
    service = Service("test")
    a, b = (service.add(Recorder(name, journal)) for name in ("a", "b"))
    service.stop_order = (a, b)
    service.on_draining(lambda: journal.append(f"draining={service.draining}"))
    running = asyncio.create_task(service.run())
    await journal.reached("b.start")
    service.drain()
    await running
    assert journal[2:] == ["draining=True", "a.drain", "b.drain", "a.stop", "b.stop"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_a_second_one_cuts_the_drain_short(number: signal.Signals) -> None:
    journal = Journal()
    service = Service("test")
    service.add(Recorder("a", journal, drain=_for_ever))
    running = asyncio.create_task(service.run())
    await journal.reached("a.start")
    os.kill(os.getpid(), number)
    await journal.reached("a.drain")
    assert not running.done()
    os.kill(os.getpid(), number)
    assert await running == EXIT_CUT_SHORT
    assert journal[-1] == "a.stop"


async def test_a_drain_has_its_time_and_then_some_to_say_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    service = Service("test", drain_timeout=0.05, after_drain=5)
    service.add(Recorder("a", journal, drain=lambda: asyncio.sleep(0.1)))
    caplog.set_level(logging.INFO, "common.lifecycle")
    running = asyncio.create_task(service.run())
    await journal.reached("a.start")
    service.drain()
    assert await running == EXIT_OK
    (said,) = (record for record in caplog.records if record.message == "draining")
    assert vars(said)["timeout_seconds"] == 0.05, "as the setting says"


async def test_a_drain_that_takes_too_long_is_cut_short() -> None:
    journal = Journal()
    service = Service("test", drain_timeout=0.05)
    service.add(Recorder("a", journal, drain=_for_ever))
    running = asyncio.create_task(service.run())
    await journal.reached("a.start")
    service.drain()
    assert await asyncio.wait_for(running, 5) == EXIT_CUT_SHORT
    assert journal[-1] == "a.stop"


async def test_one_that_cannot_drain_has_crashed() -> None:
    """A worker that says goodbye after that would make its death no death of a worker for the tasks it ran."""

    async def crash() -> None:
        raise RuntimeError("a fault of ours")

    service = Service("test")
    service.add(Recorder("a", Journal(), drain=crash))
    running = asyncio.create_task(service.run())
    await service.started.wait()
    assert not service.failed
    service.drain()
    assert await asyncio.wait_for(running, 5) == EXIT_FAILED
    assert service.failed


async def test_a_signal_during_the_start_stops_what_has_started() -> None:
    journal = Journal()
    service = Service("test")
    service.add(Recorder("a", journal))
    service.add(Recorder("b", journal, start=_for_ever))
    service.add(Recorder("c", journal))
    running = asyncio.create_task(service.run())
    await journal.reached("b.start")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 5) == EXIT_OK
    assert "c.start" not in journal
    assert journal[-2:] == ["b.stop", "a.stop"]


async def test_a_part_that_cannot_start_stops_the_others_and_its_error_is_raised() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    journal = Journal()
    service = Service("test")
    service.add(Recorder("a", journal))
    service.add(Recorder("b", journal, start=fail))
    with pytest.raises(ZeroDivisionError):
        await service.run()
    assert journal == ["a.start", "b.start", "b.stop", "a.stop"]


@pytest.mark.parametrize("how", ["background", "watched task"])
async def test_a_part_that_crashes_ends_the_service_with_one_line(how: str, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    service = Service("test")

    async def crash() -> None:
        raise ZeroDivisionError("boom")

    async def start() -> None:
        if how == "background":
            Background("a.loop", crash, service.report).start()
            Background("a.other", crash, service.report).start()
        else:
            service.watch(asyncio.create_task(crash(), name="a.loop"))

    service.add(Recorder("a", journal, start=start))
    with caplog.at_level(logging.ERROR):
        assert await asyncio.wait_for(service.run(), 5) == EXIT_FAILED
    assert journal == ["a.start", "a.stop"]
    (record,) = caplog.records
    assert record.getMessage() == "a part crashed, the service ends"
    assert vars(record)["part"] == "a.loop"
    assert record.exc_info is not None


async def test_a_worn_out_service_drains_and_says_so_with_its_exit_code(caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    service = Service("test")
    service.add(Recorder("a", journal))
    running = asyncio.create_task(service.run())
    await journal.reached("a.start")
    service.retire("too many of them")
    service.retire("more of them")
    assert await running == EXIT_WORN_OUT
    assert journal == ["a.start", "a.drain", "a.stop"]
    assert [each.reason for each in caplog.records if each.message.startswith("worn out")] == ["too many of them"]  # type: ignore[attr-defined]


async def test_a_service_that_was_asked_to_end_is_not_worn_out() -> None:
    service = Service("test")
    service.add(Recorder("a", Journal()))
    running = asyncio.create_task(service.run())
    await service.started.wait()
    service.drain()
    service.retire("too late")
    assert await running == EXIT_OK


async def test_a_part_that_crashes_during_the_drain_ends_it() -> None:
    journal = Journal()
    service = Service("test")
    service.add(Recorder("a", journal, drain=_for_ever))
    running = asyncio.create_task(service.run())
    await journal.reached("a.start")
    service.drain()
    await journal.reached("a.drain")
    service.report("a.loop", ZeroDivisionError())
    assert await asyncio.wait_for(running, 5) == EXIT_FAILED


async def test_parts_that_cannot_drain_or_stop_do_not_keep_the_others_from_stopping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    journal = Journal()
    service = Service("test", stop_timeout=0.05)
    service.add(Recorder("a", journal))
    service.add(Recorder("b", journal, stop=_for_ever))
    service.add(Recorder("c", journal, drain=fail, stop=fail))
    running = asyncio.create_task(service.run())
    await journal.reached("c.start")
    service.drain()
    assert await asyncio.wait_for(running, 5) == EXIT_FAILED
    assert journal[-3:] == ["c.stop", "b.stop", "a.stop"]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "a part could not drain",
        "a part could not stop",
        "a part did not stop in time",
    ]


@pytest.mark.parametrize("fast", [True, False])
def test_run_gives_the_exit_code_and_leaves_no_signal_handler(fast: bool) -> None:
    async def main() -> int:
        service = Service("test")
        service.drain()
        return await service.run()

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert run(main, fast_loop=fast) == EXIT_OK
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_uvloop_is_used_when_it_is_there() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> int:
        return int(isinstance(asyncio.get_running_loop(), uvloop.Loop))

    assert (run(main), run(main, fast_loop=False)) == (1, 0)


@pytest.mark.parametrize("fast_loop", [False, True])
def test_a_callback_of_ours_that_raises_ends_the_service(fast_loop: bool, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()

    async def main() -> int:
        def refuse(batch: object) -> None:
            raise RuntimeError(f"not {batch}")

        service = Service("test")
        service.add(Recorder("part", journal))
        handover = Handover(asyncio.get_running_loop(), refuse)
        service.on_draining(lambda: journal.append("draining"))
        ended = asyncio.create_task(service.run())
        await service.started.wait()
        await asyncio.to_thread(handover.put, None, None)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            return await ended

    assert run(main, fast_loop=fast_loop) == EXIT_FAILED
    assert journal == ["part.start", "part.stop"]
    (crash,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert crash.exc_info is not None
    assert str(crash.exc_info[1]) == "not [(None, None)]"


@pytest.mark.parametrize("fast_loop", [False, True])
def test_a_task_of_ours_that_nobody_awaits_ends_the_service_when_it_raises(
    fast_loop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> int:
        service = Service("test")
        ended = asyncio.create_task(service.run())
        await service.started.wait()
        forgotten = {asyncio.create_task(Acks(1).add([object()]), name="acks")}  # type: ignore[list-item]
        for task in forgotten:
            task.add_done_callback(forgotten.discard)
        del task
        async with asyncio.timeout(5):
            return await ended

    assert run(main, fast_loop=fast_loop) == EXIT_FAILED
    (crash,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert crash.__dict__["part"] == "acks"


@pytest.mark.parametrize("fast_loop", [False, True])
def test_a_callback_of_a_library_that_raises_is_only_logged(fast_loop: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        service = Service("test")
        ended = asyncio.create_task(service.run())
        await service.started.wait()
        loop.call_soon(json.loads, "no JSON")
        loop.call_soon_threadsafe(json.dumps, loop)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        service.drain()
        return await ended

    assert run(main, fast_loop=fast_loop) == EXIT_OK
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        json.JSONDecodeError,
        TypeError,
    ]


_STUBBORN = """
import asyncio
from common.lifecycle import Service, run

class Stubborn:
    async def start(self): print("started", flush=True)
    async def drain(self): print("draining", flush=True); await asyncio.sleep(60)
    async def stop(self): print("stopping", flush=True); await asyncio.sleep(60)

async def main():
    service = Service("stubborn", stop_timeout=60)
    service.add(Stubborn())
    return await service.run()

raise SystemExit(run(main))
"""


def test_a_third_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", _STUBBORN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in ("started", "draining", "stopping"):
            assert process.stdout.readline().strip() == line
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 128 + signal.SIGTERM


class TestBackground:
    async def test_it_runs_until_stopped_and_can_start_again(self) -> None:
        background = Background("loop", _for_ever)
        for _ in range(2):
            background.start()
            background.start()
            assert background.running
            await background.stop()
            await background.stop()
            assert not background.running

    async def test_stopping_is_no_crash(self) -> None:
        reports: list[tuple[str, BaseException]] = []
        background = Background("loop", _for_ever, lambda *report: reports.append(report))
        background.start()
        await asyncio.sleep(0)
        await background.stop()
        assert reports == []

    async def test_a_cancellation_that_nobody_asked_for_is_a_crash(self) -> None:
        async def cancelled_by_a_library() -> None:
            raise asyncio.CancelledError

        reports: list[tuple[str, BaseException]] = []
        background = Background("loop", cancelled_by_a_library, lambda *report: reports.append(report))
        background.start()
        await background.wait()
        await asyncio.sleep(0)
        ((name, error),) = reports
        assert name == "loop"
        assert isinstance(error, StrayCancellation)

    async def test_without_anybody_to_report_to_a_crash_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async def crash() -> None:
            raise ZeroDivisionError

        background = Background("loop", crash)
        background.start()
        await background.wait()
        await asyncio.sleep(0)
        assert [record.getMessage() for record in caplog.records] == ["a background task crashed"]

    async def test_a_coroutine_that_does_not_end_at_once_is_waited_for(self) -> None:
        ended = False

        async def slow_to_end() -> None:
            nonlocal ended
            try:
                await _for_ever()
            finally:
                await asyncio.sleep(0.02)
                ended = True

        background = Background("loop", slow_to_end)
        background.start()
        await asyncio.sleep(0)
        await background.stop()
        assert ended

    async def test_a_periodic_one_runs_again_until_it_raises(self) -> None:
        runs = 0
        reports: list[str] = []

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs == 3:
                raise ZeroDivisionError

        periodic = Periodic("tick", 0.001, work, lambda name, _: reports.append(name))
        periodic.start()
        await asyncio.wait_for(periodic.wait(), 5)
        await asyncio.sleep(0)
        assert (runs, reports) == (3, ["tick"])

"""What task functions in processes say to their worker, and what they are told, on a real broker."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from common import AsyncClient, call
from common.broker import BatchConsumer, Delivery, declare
from common.options import Policy
from common.wire import Advice, ErrorKind, Isolation, OutcomeKind
from deploy.local import Broker
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, worker_settings
from worker_service.events import Returned


@pytest.mark.parametrize("where", ["on_loop", "in_thread", "in_process"])
async def test_the_newest_word_is_sent_though_no_other_follows(broker: Broker, namespace: str, where: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(f"report_and_wait_{where}", 60.0)
        await scheduler.send(work)
        await scheduler.until(
            lambda: any(each.done == 3 for _, each in scheduler.progress(work)), 10.0, "the newest word"
        )
        assert not scheduler.final(work), "while it runs"
        await scheduler.cancel(work)
        await scheduler.outcome(work)


async def test_a_timeout_while_a_child_is_submitted_harms_no_later_task(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=1)
    async with StandInScheduler(broker.url, namespace) as scheduler:

        async def submitted(batch: list[Delivery]) -> None:
            """They are not run."""

        await declare(scheduler.connection, scheduler.topology.exchanges(), (scheduler.topology.submit,))
        consumer = BatchConsumer(scheduler.connection, scheduler.topology.submit, submitted, prefetch=100)
        await consumer.start()
        async with RunningWorker(settings):
            for number in range(20):
                work = assignment("submit_for_ever", policy=Policy(timeout=0.05 + 0.0013 * number))
                good = assignment("process_pid")
                await scheduler.send(work)
                outcome = await scheduler.outcome(work)
                assert outcome.error is not None
                assert outcome.error.kind is ErrorKind.TIMEOUT, outcome
                await scheduler.send(good)
                assert (await scheduler.outcome(good)).kind is OutcomeKind.SUCCEEDED
        await consumer.stop()


@pytest.mark.parametrize("how", ["kill", "segfault"])
async def test_a_crash_says_by_which_signal_and_at_how_much_memory(broker: Broker, namespace: str, how: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        pooled, apart = assignment("process_die", how), assignment("die", how, isolation=Isolation.CHILD)
        await scheduler.send(pooled, apart)
        for work in (pooled, apart):
            error = (await scheduler.outcome(work)).error
            assert error is not None
            name = {"kill": "SIGKILL", "segfault": "SIGSEGV"}[how]
            assert error.message.startswith(f"killed by {name}, at ")
            assert error.message.endswith(" MiB of memory")


@pytest.mark.parametrize("where", ["on_loop", "in_thread", "in_process", "on_loop_in_process"])
async def test_arguments_and_results_are_checked_everywhere(broker: Broker, namespace: str, where: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        retried = Policy(retries=3)
        name = f"check_{where}"
        wrong = assignment(name, [{"at": "2026-01-01T00:00:00Z", "n": 1}, {"at": "today", "n": 2}], policy=retried)
        few, many = assignment(name, policy=retried), assignment(name, [], 1, policy=retried)
        good = assignment(name, [{"at": "2026-01-01T00:00:00Z", "n": 1}])
        bad = assignment(name, [], give="object", policy=retried)
        nan = assignment(name, [], give="nan", policy=retried)
        again = assignment(name, [], give="Retry", policy=Policy(retries=2))
        fails = assignment(name, [], give="Fail", policy=retried)
        await scheduler.send(wrong, few, many, good, bad, nan, again, fails)
        assert json.loads(bytes((await scheduler.outcome(good)).result)) == ["2026-01-01T00:00:00Z", 1]
        expected: list[tuple[Any, ErrorKind, str]] = [
            (wrong, ErrorKind.BAD_ARGUMENTS, "[1].at"),
            (few, ErrorKind.BAD_ARGUMENTS, "missing"),
            (many, ErrorKind.BAD_ARGUMENTS, ""),
            (bad, ErrorKind.BAD_RESULT, "not JSON"),
            (nan, ErrorKind.BAD_RESULT, "not JSON"),
            (fails, ErrorKind.GAVE_UP, "no use"),
        ]
        for work, kind, says in expected:
            outcome = await scheduler.outcome(work)
            assert outcome.error is not None
            assert (outcome.error.kind, outcome.advice) == (kind, None)
            assert says in outcome.error.message
        outcome = await scheduler.outcome(again)
        assert outcome.error is not None
        assert (outcome.error.kind, outcome.advice) == (ErrorKind.RETRY, Advice(after=7.0, retries=2))


@pytest.mark.parametrize("where", ["in_process", "on_loop_in_process"])
async def test_a_cancelled_process_is_killed(broker: Broker, namespace: str, where: str, tmp_path: Path) -> None:
    settings = worker_settings(broker.url, namespace, processes=1)
    log = tmp_path / "log"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        work = assignment(f"hang_{where}", str(log))
        await scheduler.send(work)
        await scheduler.until(lambda: bool(running.worker.executor.running_attempts()), what="a start")
        await scheduler.cancel(work)
        assert (await scheduler.outcome(work, 5.0)).reason == "cancelled"
        assert not log.exists()
        again = assignment("process_pid")
        await scheduler.send(again)
        assert (await scheduler.outcome(again)).kind is OutcomeKind.SUCCEEDED


async def test_the_logger_of_a_task_in_a_process_is_bound_to_it(
    broker: Broker, namespace: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = worker_settings(broker.url, namespace, log_format="json")
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment("describe_in_process")
        await scheduler.send(work)
        await scheduler.outcome(work)
        captured = capfd.readouterr()
        lines = [json.loads(line) for line in (captured.err + captured.out).splitlines() if "bound to its task" in line]
        assert [(line["task_id"], line["task"], line["attempt"], line["more"]) for line in lines] == [
            (work.id, work.task, 1, 1)
        ]


async def test_memory_is_limited_in_coroutine_functions_too(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=1)
    limit = Policy(memory_limit=64 * 1024 * 1024)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        for _ in range(2):  # the process is used again
            work = assignment("grow_on_loop_in_process", 200, policy=limit)
            fits = assignment("grow_on_loop_in_process", 20, policy=limit)
            await scheduler.send(work, fits)
            error = (await scheduler.outcome(work)).error
            assert error is not None
            assert error.message.startswith("it took more than its memory_limit of 64 MiB")
            assert (await scheduler.outcome(fits)).kind is OutcomeKind.SUCCEEDED


async def test_many_slots_and_few_processes_keep_no_task_travelling(
    broker: Broker, namespace: str, tmp_path: Path
) -> None:
    """The scheduler counts slots. What finds no process here goes back after two seconds, not ten times a second."""
    count, seconds, slots, processes = 200, 0.05, 50, 2
    settings = worker_settings(broker.url, namespace, slots=slots, processes=processes)
    async with (
        RunningScheduler(broker.url, namespace, tmp_path),
        RunningWorker(settings) as running,
        AsyncClient(broker.url, namespace=namespace) as client,
    ):
        busy: list[int] = []
        running.worker.telemetry.on(Returned, lambda event: busy.append(event.count))
        await (await client.submit("process_pid")).result(timeout=20)
        started = time.monotonic()
        handles = await client.submit_many(call("sleep_in_c", seconds) for _ in range(count))
        for handle in handles:
            await handle.result(timeout=60)
        took = time.monotonic() - started
        assert sum(busy) <= slots * took / 2
        assert took <= 1.5 * count * seconds / processes

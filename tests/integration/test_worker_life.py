"""Retries' advice, timeouts, cancelling and the context, in all three runtimes, on a real broker."""

import asyncio
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.broker import BatchConsumer, Delivery, declare
from common.lifecycle import EXIT_WORN_OUT
from common.options import Backoff, Policy
from common.wire import (
    Advice,
    Assignment,
    ErrorInfo,
    ErrorKind,
    Isolation,
    Outcome,
    OutcomeKind,
    ReturnReason,
    Submission,
    decode,
)
from deploy.local import Broker
from tests.support import worker_tasks
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, worker_settings
from worker_service.events import GivenUp, LoopBlocked, ProcessEnded

RUNTIMES = ["on_loop", "in_thread", "in_process"]
HANGING = [*RUNTIMES, "on_loop_in_process"]


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of a gate that waiting task functions wait for; open at the end in any case."""
    worker_tasks.gates["gate"] = threading.Event()
    worker_tasks.arrived.clear()
    yield "gate"
    worker_tasks.gates["gate"].set()


def error_of(outcome: Outcome) -> ErrorInfo:
    assert outcome.kind is OutcomeKind.FAILED, outcome
    assert outcome.error is not None
    return outcome.error


def value_of(outcome: Outcome) -> Any:
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome
    return json.loads(bytes(outcome.result))


def said(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def until_running(scheduler: StandInScheduler, running: RunningWorker, work: Assignment) -> None:
    await scheduler.until(lambda: bool(_started(running, work)), what="a start")


def _started(running: RunningWorker, work: Assignment) -> list[Any]:
    return [each for each in running.worker.executor.running_attempts() if each.assignment.lease == work.lease]


@pytest.mark.parametrize(
    ("name", "kind", "advice"),
    [
        ("OSError", ErrorKind.EXCEPTION, Advice(retries=3)),
        ("ConnectionResetError", ErrorKind.EXCEPTION, Advice(retries=3)),
        ("KeyError", ErrorKind.EXCEPTION, Advice(retries=3)),
        ("FileNotFoundError", ErrorKind.EXCEPTION, None),
        ("ValueError", ErrorKind.EXCEPTION, None),
        ("Retry", ErrorKind.RETRY, Advice(after=7.0, retries=3)),
        ("Fail", ErrorKind.GAVE_UP, None),
    ],
)
async def test_a_failure_comes_with_advice(
    broker: Broker, namespace: str, name: str, kind: ErrorKind, advice: Advice | None
) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work, apart = assignment("fail_as", name), assignment("fail_as", name, isolation=Isolation.CHILD)
        await scheduler.send(work, apart)
        for each in (work, apart):
            outcome = await scheduler.outcome(each)
            assert error_of(outcome).kind is kind
            assert outcome.advice == advice


async def test_the_submission_s_word_counts_before_the_decorator_s(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        all_of_it = assignment("fail_as", "ValueError", policy=Policy(retries=9, retry_on=("ValueError",)))
        one_word = assignment("fail_as", "OSError", policy=Policy(backoff=Backoff(base=5)))
        none = assignment("fail_as", "OSError", policy=Policy(retries=0))
        in_process = assignment("process_fail_as", "ValueError", policy=Policy(retries=5))
        crash = assignment("process_fail_as", "die")
        await scheduler.send(all_of_it, one_word, none, in_process, crash)
        assert (await scheduler.outcome(all_of_it)).advice == Advice(retries=9)
        assert (await scheduler.outcome(one_word)).advice == Advice(retries=3, backoff=Backoff(base=5))
        assert (await scheduler.outcome(none)).advice is None
        assert (await scheduler.outcome(in_process)).advice == Advice(retries=5)
        crashed = await scheduler.outcome(crash)
        assert error_of(crashed).kind is ErrorKind.CRASHED
        assert crashed.advice == Advice(max_crashes=1)


@pytest.mark.parametrize("where", HANGING)
async def test_a_timeout_is_raised_in_the_function(broker: Broker, namespace: str, where: str, tmp_path: Path) -> None:
    settings = worker_settings(broker.url, namespace)
    log = tmp_path / "log"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(f"hang_{where}", str(log), policy=Policy(timeout=0.3, retries=2))
        await scheduler.send(work)
        outcome = await scheduler.outcome(work)
        assert error_of(outcome).kind is ErrorKind.TIMEOUT
        assert said(log) == ["TaskTimeout"]
        assert outcome.advice == Advice(retries=2)
        assert 0.25 <= outcome.run_seconds < 5.0  # it counts from a moment before the function begins
        again = assignment("add", 1, 2), assignment("plain_add", 1, 2), assignment("process_add", 1, 2)
        await scheduler.send(*again)
        assert [value_of(await scheduler.outcome(each)) for each in again] == [3, 3, 3]


@pytest.mark.parametrize("name", ["catch_timeout", "plain_catch_timeout", "process_catch_timeout"])
async def test_a_function_may_clean_up_after_its_timeout(broker: Broker, namespace: str, name: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(name, policy=Policy(timeout=0.2))
        await scheduler.send(work)
        assert value_of(await scheduler.outcome(work)) == "cleaned up"


async def test_a_timeout_inside_of_a_task_group_is_one(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment("hang_in_a_group", policy=Policy(timeout=0.1))
        await scheduler.send(work)
        assert error_of(await scheduler.outcome(work)).kind is ErrorKind.TIMEOUT


async def test_many_timeouts_hit_nothing_but_their_own_task(broker: Broker, namespace: str) -> None:
    """The timeout comes at about the moment at which the function ends."""
    settings = worker_settings(broker.url, namespace, slots=8, queue_patience=20.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        works = [
            assignment(name, 0.01 + 0.0005 * (number % 10), policy=Policy(timeout=0.012))
            for number in range(100)
            for name in ("plain_sleep", "sleep", "sleep_in_c")
        ]
        await scheduler.send(*works)
        outcomes = [await scheduler.outcome(each) for each in works]
        kinds = {outcome.error.kind for outcome in outcomes if outcome.error is not None}
        assert kinds <= {ErrorKind.TIMEOUT}
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.SUCCEEDED, OutcomeKind.FAILED}


@pytest.mark.parametrize("where", RUNTIMES)
async def test_a_hard_timeout_ends_it(broker: Broker, namespace: str, where: str, tmp_path: Path) -> None:
    settings = worker_settings(broker.url, namespace, timeout_grace=5.0)
    log = tmp_path / "log"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(f"hang_{where}", str(log), policy=Policy(hard_timeout=0.3, retries=1))
        await scheduler.send(work)
        outcome = await scheduler.outcome(work)
        assert (error_of(outcome).kind, error_of(outcome).type) == (ErrorKind.TIMEOUT, "TaskTimeout")
        assert "after its hard timeout of 0.3 s" in error_of(outcome).message
        assert outcome.advice == Advice(retries=1)
        assert said(log) == {"on_loop": ["CancelledError"], "in_thread": ["TaskTimeout"], "in_process": []}[where]


@pytest.mark.parametrize("name", ["stubborn", "plain_wait_for"])
async def test_what_does_not_end_is_given_up(broker: Broker, namespace: str, gate: str, name: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, timeout_grace=0.1, queue_patience=5.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        given_up: list[GivenUp] = []
        running.worker.telemetry.on(GivenUp, given_up.append)
        for _ in range(2):
            work = assignment(name, gate, policy=Policy(timeout=0.1, hard_timeout=0.2))
            await scheduler.send(work)
            assert error_of(await scheduler.outcome(work)).kind is ErrorKind.TIMEOUT
            # Its slot, and the thread in it, are there again.
            again = assignment("add", 1, 2), assignment("plain_add", 1, 2)
            await scheduler.send(*again)
            assert [value_of(await scheduler.outcome(each)) for each in again] == [3, 3]
        assert [each.task for each in given_up] == [name, name]
        worker_tasks.gates[gate].set()
        await scheduler.until(lambda: not _threads_of(gate), what="the threads to end")
        assert len(scheduler.final(work)) == 1


@pytest.mark.parametrize("name", ["stubborn", "plain_wait_for"])
async def test_what_ignores_that_it_is_cancelled_keeps_its_slot_until_its_hard_timeout(
    broker: Broker, namespace: str, gate: str, name: str
) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, timeout_grace=0.1, queue_patience=10.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        work, behind = assignment(name, gate, policy=Policy(hard_timeout=2.5)), assignment("add", 1, 2)
        await scheduler.send(work, behind)
        await scheduler.until(lambda: gate in worker_tasks.arrived, what="the function's own code")
        await scheduler.cancel(work)
        executor = running.worker.executor
        await scheduler.until(
            lambda: any(each.context.cancelled for each in executor.running_attempts()), what="the word"
        )
        assert not scheduler.final(behind)
        assert (await scheduler.outcome(work)).reason is ReturnReason.CANCELLED
        assert value_of(await scheduler.outcome(behind)) == 3
        assert running.worker.executor.given_up == 1


@pytest.mark.parametrize("name", ["stubborn", "plain_wait_for"])
async def test_a_worker_with_too_many_that_were_given_up_makes_room_for_a_fresh_one(
    broker: Broker, namespace: str, gate: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    more: dict[str, Any] = {"http": True, "http_port": 0, "max_given_up": 1, "timeout_grace": 0.1}
    settings = worker_settings(broker.url, namespace, **more)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        running = RunningWorker(settings)
        await running.__aenter__()
        assert running.worker.health is not None
        url = running.worker.health.url
        stuck = [assignment(name, gate, policy=Policy(hard_timeout=0.2)) for _ in range(2)]
        await scheduler.send(stuck[0])
        assert error_of(await scheduler.outcome(stuck[0])).kind is ErrorKind.TIMEOUT
        assert (await _readiness(url))["ready"], "one is allowed"
        long = assignment("sleep", 2.0)
        await scheduler.send(long)
        await until_running(scheduler, running, long)
        await scheduler.send(stuck[1])
        assert error_of(await scheduler.outcome(stuck[1])).kind is ErrorKind.TIMEOUT
        await scheduler.until(lambda: running.worker.service.draining, what="the drain")
        checks = (await _readiness(url))["checks"]
        assert checks["given_up"] == "2 task functions that were given up go on, 1 may"
        late = assignment("add", 1, 2)
        await scheduler.send(late)
        assert await running.ended() == EXIT_WORN_OUT
        assert (await scheduler.outcome(long)).kind is OutcomeKind.SUCCEEDED, "what runs is finished"
        assert [each.reason for each in caplog.records if each.message.startswith("worn out")] == [  # type: ignore[attr-defined]
            "2 task functions that were given up go on, 1 may"
        ]
        assert not [each for each in scheduler.final(late) if each.kind is not OutcomeKind.RETURNED]
        async with RunningWorker(worker_settings(broker.url, namespace)):
            again = assignment("add", 3, 4)
            await scheduler.send(again)
            assert value_of(await scheduler.outcome(again)) == 7


async def _readiness(url: str) -> Any:
    def get() -> Any:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    return await asyncio.to_thread(get)


async def test_a_thread_whose_function_ends_after_all_is_not_one_too_many(
    broker: Broker, namespace: str, gate: str
) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, timeout_grace=0.05, queue_patience=5.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        before = len(_plain_threads())
        for _ in range(3):
            worker_tasks.gates[gate].clear()
            work = assignment("plain_wait_for", gate, policy=Policy(hard_timeout=0.1))
            await scheduler.send(work)
            await scheduler.outcome(work)
            assert running.worker.executor.given_up == 1
            worker_tasks.gates[gate].set()
            await scheduler.until(lambda: running.worker.executor.given_up == 0, what="the late end")
            await scheduler.until(lambda: len(_plain_threads()) == before, what="the end of its thread")
        assert len(running.worker.executor._threads._threads) <= 2  # type: ignore[attr-defined]


async def test_what_a_blocked_loop_kept_from_starting_in_time_is_not_run(
    broker: Broker, namespace: str, tmp_path: Path
) -> None:
    settings = worker_settings(broker.url, namespace, timeout_grace=0.05)
    log = tmp_path / "log"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        blocker, behind = assignment("block_for", 1.0), assignment("count_on_loop", str(log), 1)
        behind.policy = Policy(hard_timeout=0.1)
        await scheduler.send(blocker)
        await until_running(scheduler, running, blocker)
        await scheduler.send(behind)
        assert error_of(await scheduler.outcome(behind)).kind is ErrorKind.TIMEOUT
        await scheduler.outcome(blocker)
        await scheduler.until(lambda: running.worker.executor.given_up == 0, what="the late end")
        assert said(log) == []


def _plain_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("plain-")]


def _threads_of(gate: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("plain-") and each.name != "plain-0"][2:]


async def test_only_the_hung_process_is_killed_and_replaced(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=2)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        ends: list[ProcessEnded] = []
        running.worker.telemetry.on(ProcessEnded, ends.append)
        long = assignment("sleep_in_c", 1.5)
        hung = assignment("sleep_in_c", 60.0, policy=Policy(hard_timeout=0.3))
        await scheduler.send(long, hung)
        assert error_of(await scheduler.outcome(hung)).kind is ErrorKind.TIMEOUT
        again = assignment("process_pid")
        await scheduler.send(again)
        await scheduler.outcome(again)
        assert (await scheduler.outcome(long)).kind is OutcomeKind.SUCCEEDED
        assert [each.reason for each in ends] == ["killed"]
        assert running.worker.processes.size == 2


@pytest.mark.parametrize(
    ("how", "says"),
    [("kill", "killed by SIGKILL, at "), ("exit", "exit code 0 without"), ("parent", "it killed the pro")],
)
async def test_a_process_that_dies_is_the_verdict_on_its_own_task(
    broker: Broker, namespace: str, how: str, says: str
) -> None:
    settings = worker_settings(broker.url, namespace, processes=3)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        innocent = [assignment("sleep_in_c", 0.5), assignment("sleep_in_c", 0.5)]
        guilty = assignment("process_die", how)
        await scheduler.send(*innocent, guilty)
        error = error_of(await scheduler.outcome(guilty))
        assert error.kind is ErrorKind.CRASHED
        assert error.message.startswith(says)
        again = [assignment("process_add", 1, 2) for _ in range(3)]
        await scheduler.send(*again)
        for each in (*innocent, *again):
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED


async def test_context_does_not_leak_between_tasks_of_one_process(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=1)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        for number in range(3):
            work = assignment("process_remember", str(number))
            await scheduler.send(work)
            assert value_of(await scheduler.outcome(work)) == ""


async def test_draining_waits_for_processes(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=2)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        async with RunningWorker(settings) as running:
            work = assignment("sleep_in_c", 0.5)
            await scheduler.send(work)
            await until_running(scheduler, running, work)
        assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED
        assert running.exit_code == 0


async def test_a_soft_timeout_ends_a_blocking_call_in_a_process(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment("sleep_in_c", 60.0, policy=Policy(timeout=0.2))
        await scheduler.send(work)
        assert error_of(await scheduler.outcome(work)).kind is ErrorKind.TIMEOUT


async def test_processes_are_used_again_and_recycled(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=1, process_tasks=3)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        pids = []
        for _ in range(7):
            work = assignment("process_pid")
            await scheduler.send(work)
            pids.append(value_of(await scheduler.outcome(work)))
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


async def test_no_more_processes_run_than_the_setting_says(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=2, slots=8)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        works = [assignment("sleep_in_c", 0.05) for _ in range(8)]
        others = [assignment("add", 1, 2), assignment("plain_add", 1, 2)]
        await scheduler.send(*works, *others)
        sizes = set()
        for each in (*others, *works):
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
            sizes.add(running.worker.processes.size)
        assert max(sizes) == 2


@pytest.mark.parametrize("task", ["grow", "plain_grow"])
async def test_a_task_that_takes_too_much_memory_says_so(broker: Broker, namespace: str, task: str) -> None:
    settings = worker_settings(broker.url, namespace, processes=1)
    limit = Policy(memory_limit=64 * 1024 * 1024)
    apart = Isolation.NONE if task == "grow" else Isolation.CHILD
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(task, 200, policy=limit, isolation=apart)
        fits = assignment(task, 20, policy=limit, isolation=apart)
        free = assignment(task, 200, isolation=apart)
        await scheduler.send(work, fits, free)
        error = error_of(await scheduler.outcome(work))
        assert error.type == "MemoryError"
        assert error.message.startswith("it took more than its memory_limit of 64 MiB")
        assert value_of(await scheduler.outcome(fits)) == 20 * 1024 * 1024
        assert value_of(await scheduler.outcome(free)) == 200 * 1024 * 1024


@pytest.mark.parametrize("where", HANGING)
async def test_what_runs_is_cancelled(broker: Broker, namespace: str, where: str, tmp_path: Path) -> None:
    settings = worker_settings(broker.url, namespace)
    log = tmp_path / "log"
    name = "until_cancelled" if where == "in_thread" else f"hang_{where}"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        work = assignment(name, str(log))
        await scheduler.send(work)
        await until_running(scheduler, running, work)
        if where == "on_loop":  # cancelled before its first step, a coroutine never runs at all
            await scheduler.until(Path(f"{log}.began").exists, what="the coroutine's first step")
        await scheduler.cancel(work)
        outcome = await scheduler.outcome(work)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETURNED, ReturnReason.CANCELLED)
        assert said(log) == {"on_loop": ["CancelledError"], "in_thread": ["seen"]}.get(where, [])
        assert running.worker.executor.running == 0


async def test_what_waits_and_what_comes_later_is_not_run(
    broker: Broker, namespace: str, gate: str, tmp_path: Path
) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, queue_patience=20.0)
    effects = tmp_path / "effects"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        blocker = assignment("plain_wait_for", gate)
        waits = assignment("append_line", str(effects), "waits")
        later = assignment("append_line", str(effects), "later")
        stays = assignment("append_line", str(effects), "stays")
        await scheduler.send(blocker, waits, stays)
        await scheduler.until(lambda: running.worker.executor.waiting == 2, what="two to wait")
        await scheduler.cancel(waits, later)
        assert (await scheduler.outcome(waits)).reason is ReturnReason.CANCELLED
        await scheduler.send(later)
        assert (await scheduler.outcome(later)).reason is ReturnReason.CANCELLED
        worker_tasks.gates[gate].set()
        assert (await scheduler.outcome(stays)).kind is OutcomeKind.SUCCEEDED
        assert said(effects) == ["stays"]


async def test_what_cannot_start_in_time_goes_back(broker: Broker, namespace: str, gate: str, tmp_path: Path) -> None:
    settings = worker_settings(broker.url, namespace, slots=1, queue_patience=20.0)
    effects = tmp_path / "effects"
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        blocker, late = assignment("plain_wait_for", gate), assignment("append_line", str(effects), "late")
        late.starts_within = 0.2
        in_time = assignment("append_line", str(effects), "in time")
        in_time.starts_within = 60.0
        await scheduler.send(blocker, late, in_time)
        await scheduler.until(lambda: running.worker.executor.waiting == 2, what="two to wait")
        await asyncio.sleep(0.3)  # its time passes, that is the point
        worker_tasks.gates[gate].set()
        outcome = await scheduler.outcome(late)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETURNED, ReturnReason.EXPIRED)
        assert (await scheduler.outcome(in_time)).kind is OutcomeKind.SUCCEEDED
        assert said(effects) == ["in time"]


@pytest.mark.parametrize("where", RUNTIMES)
async def test_a_task_knows_what_it_is(
    broker: Broker, namespace: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(f"describe_{where}", policy=Policy(timeout=60.0, hard_timeout=90.0))
        with caplog.at_level(logging.WARNING, logger="warren.task"):
            await scheduler.send(work)
            known = value_of(await scheduler.outcome(work))
        left = known.pop("left")
        assert 50.0 < left <= 60.0
        assert known == {
            "id": work.id, "name": work.task, "queue": "default", "attempt": 1, "cancelled": False,
        }  # fmt: skip
        lines = [each for each in caplog.records if each.name == "warren.task"]
        if where != "in_process":  # whose log is not this process's
            assert [(each.task_id, each.task, each.attempt, each.more) for each in lines] == [  # type: ignore[attr-defined]
                (work.id, work.task, 1, 1)
            ]
        free = assignment(f"describe_{where}")
        await scheduler.send(free)
        assert value_of(await scheduler.outcome(free))["left"] is None


@pytest.mark.parametrize("where", RUNTIMES)
async def test_progress_is_reported_a_few_times_a_second_and_to_its_end(
    broker: Broker, namespace: str, where: str
) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(f"report_{where}", 200, 2.2)
        await scheduler.send(work)
        await scheduler.outcome(work, 30.0)
        await scheduler.until(lambda: scheduler.progress(work)[-1][1].done == 200, what="the last word")
        reports = scheduler.progress(work)
        assert 3 <= len(reports) <= 8 + 2
        assert [each.done for _, each in reports] == sorted(each.done for _, each in reports)
        last = reports[-1][1]
        assert (last.total, last.note) == (200, "part 200")
        assert abs(last.at - time.time()) < 60


@pytest.mark.parametrize("where", ["on_loop", "in_thread", "in_process"])
async def test_a_task_submits_children(broker: Broker, namespace: str, where: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        deliveries: list[Delivery] = []
        submissions = await _submissions(scheduler, deliveries)
        async with RunningWorker(settings):
            work, forgets = assignment(f"submit_{where}", 3), assignment("submit_and_forget")
            await scheduler.send(work, forgets)
            ids = value_of(await scheduler.outcome(work))
            ids.append(value_of(await scheduler.outcome(forgets)))
            await scheduler.until(lambda: len(_tasks(deliveries)) == 4, what="the children")
            tasks = {each.id: each for each in _tasks(deliveries)}
            assert set(tasks) == set(ids)
            parents = [options.parent for each in ids if (options := tasks[each].options) is not None]
            assert parents == [work.id] * 3 + [forgets.id]
            assert {delivery.user_id for delivery in deliveries} == {"guest"}
        await submissions.stop()


@pytest.mark.parametrize("name", ["submit_on_loop", "submit_in_thread", "submit_in_process", "submit_and_forget"])
async def test_a_task_whose_children_are_not_confirmed_fails(broker: Broker, namespace: str, name: str) -> None:
    """Nobody has declared the queue of submissions."""
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment(name, *([] if name == "submit_and_forget" else [1]), policy=Policy(retries=1))
        await scheduler.send(work)
        outcome = await scheduler.outcome(work)
        assert error_of(outcome).kind is ErrorKind.EXCEPTION
        assert error_of(outcome).type in ("PublishRefused", "ConnectionLost")
        assert outcome.advice == Advice(retries=1)


async def _submissions(scheduler: StandInScheduler, deliveries: list[Delivery]) -> BatchConsumer:
    async def submitted(batch: list[Delivery]) -> None:
        deliveries.extend(batch)

    topology = scheduler.topology
    await declare(scheduler.connection, topology.exchanges(), (topology.submit,))
    consumer = BatchConsumer(scheduler.connection, topology.submit, submitted, prefetch=100)
    await consumer.start()
    await scheduler.until(lambda: consumer.consuming)
    return consumer


def _tasks(deliveries: list[Delivery]) -> list[Any]:
    return [task for delivery in deliveries for task in decode(Submission, delivery.body).tasks]


async def test_who_blocks_the_loop_is_named(broker: Broker, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = worker_settings(broker.url, namespace, loop_blocked_after=0.2)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        blocked: list[LoopBlocked] = []
        running.worker.telemetry.on(LoopBlocked, blocked.append)
        innocent, guilty = assignment("sleep", 1.0), assignment("block_for", 1.0)
        await scheduler.send(innocent, guilty)
        await scheduler.outcome(guilty)
        assert blocked == [LoopBlocked("block_for")]
        lines = [each for each in caplog.records if "blocks the event loop" in each.message]
        assert [each.task_id for each in lines] == [guilty.id]  # type: ignore[attr-defined]
        assert "time.sleep(seconds)" in lines[0].stack  # type: ignore[attr-defined]
        assert not any("blocks" in each.message for each in caplog.records if each not in lines)

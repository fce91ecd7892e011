"""A worker when its broker, its connections or it itself fails."""

import asyncio
import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from common.broker import ready_messages
from common.wire import Isolation, OutcomeKind, ReturnReason
from deploy.local import Broker, RabbitNode
from tests.support import worker_tasks
from tests.support.stand_in_scheduler import (
    MODULE,
    RunningWorker,
    StandInScheduler,
    assignment,
    queue_of,
    worker_settings,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gate() -> Iterator[str]:
    worker_tasks.gates["gate"] = threading.Event()
    yield "gate"
    worker_tasks.gates["gate"].set()


@asynccontextmanager
async def process(url: str, namespace: str, *options: str, **more: str) -> AsyncIterator[Process]:
    """A worker in a process of its own, killed at the end if it still runs."""
    environ: Mapping[str, str] = {
        **os.environ,
        "WARREN_AMQP_URL": url,
        "WARREN_NAMESPACE": namespace,
        "PYTHONPATH": str(ROOT),
        "WARREN_LOG_LEVEL": "warning",
        "WARREN_BEAT_INTERVAL": "0.2",
        **more,
    }
    command = (sys.executable, "-m", "worker_service", MODULE, "--slots", "4", *options)
    made = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT)
    try:
        yield made
    finally:
        with suppress(ProcessLookupError):
            made.kill()
        await made.wait()


async def test_a_restart_of_the_broker_loses_no_outcome(private_broker: RabbitNode, namespace: str, gate: str) -> None:
    url = private_broker.url()
    settings = worker_settings(url, namespace, queue_patience=60.0)
    async with StandInScheduler(url, namespace) as scheduler, RunningWorker(settings) as running:
        work = [assignment("wait_for", gate), assignment("plain_wait_for", gate)]
        waits = [assignment("add", number, 0) for number in range(4)]
        await scheduler.send(*work)
        await scheduler.until(lambda: running.worker.executor.running == 2)
        await asyncio.to_thread(private_broker.restart)
        await running.until_consuming()
        await scheduler.until(lambda: all(scheduler.outcomes.get(each.lease) for each in work), 40.0)
        for each in work:
            # The bundle came back to this very worker, which goes on with what it has and gives the copy back.
            assert scheduler.outcomes[each.lease][0].reason is ReturnReason.REDELIVERED
        worker_tasks.gates[gate].set()
        for each in work:
            await scheduler.until(lambda each=each: len(scheduler.outcomes[each.lease]) == 2)  # type: ignore[misc]
            assert scheduler.outcomes[each.lease][1].kind is OutcomeKind.SUCCEEDED
        await scheduler.send(*waits)
        for each in waits:
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
        await scheduler.until(lambda: len(running.worker.leases) == 0)


async def test_closed_connections_come_back(private_broker: RabbitNode, namespace: str) -> None:
    url = private_broker.url()
    settings = worker_settings(url, namespace)
    async with StandInScheduler(url, namespace) as scheduler, RunningWorker(settings) as running:
        for round_number in range(3):
            work = [assignment("sleep", 0.05) for _ in range(4)]
            await scheduler.send(*work)
            await asyncio.to_thread(private_broker.close_all_connections)
            await scheduler.until(
                lambda work=work: all(scheduler.outcomes.get(each.lease) for each in work),  # type: ignore[misc]
                what=f"outcomes in round {round_number}",
            )
        await scheduler.until(lambda: len(running.worker.leases) == 0)
        await running.until_consuming()


async def test_a_deleted_queue_is_consumed_again(broker: Broker, namespace: str) -> None:
    assert broker.node is not None
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        consumer = running.worker.consumers[0]._consumer
        before = consumer._subscription
        await asyncio.to_thread(broker.node.delete_names, f"{namespace}.work.default")
        await scheduler.until(lambda: consumer._subscription is not before, what="another subscription")
        await running.until_consuming()
        work = assignment("add", 1, 2)
        await scheduler.send(work)
        assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED


async def test_a_worker_that_is_there_before_the_scheduler(
    broker: Broker, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = RunningWorker(worker_settings(broker.url, namespace))
    starting = asyncio.create_task(running.__aenter__())
    async with asyncio.timeout(20.0):
        while "cannot consume" not in caplog.text:  # noqa: ASYNC110 - only the log tells of a failed try
            await asyncio.sleep(0.01)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        await starting
        work = assignment("add", 1, 2)
        await scheduler.send(work)
        assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED
        await scheduler.until(lambda: bool(scheduler.beats))
        await running.__aexit__(None, None, None)
        assert running.exit_code == 0


async def test_a_memory_alarm_only_delays_replies(private_broker: RabbitNode, namespace: str, gate: str) -> None:
    url = private_broker.url()
    settings = worker_settings(url, namespace, publish_timeout=0.5)
    async with StandInScheduler(url, namespace) as scheduler, RunningWorker(settings) as running:
        work = assignment("wait_for", gate)
        await scheduler.send(work)
        await scheduler.until(lambda: running.worker.executor.running == 1)
        await asyncio.to_thread(private_broker.set_memory_alarm, True)
        worker_tasks.gates[gate].set()
        await scheduler.until(lambda: bool(running.worker.replier.stuck_reason), what="a stuck reply")
        assert running.worker.consumers[0].consuming
        assert len(running.worker.leases) == 1
        await asyncio.to_thread(private_broker.set_memory_alarm, False)
        assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED
        await scheduler.until(lambda: len(running.worker.leases) == 0)
        assert running.worker.replier.stuck_reason == ""


async def test_a_task_longer_than_the_consumer_timeout_runs_once(
    private_broker: RabbitNode, namespace: str, gate: str
) -> None:
    url = private_broker.url()
    await asyncio.to_thread(private_broker.set_consumer_timeout, 2000)
    settings = worker_settings(url, namespace, hold_after=0.5)
    async with StandInScheduler(url, namespace) as scheduler, RunningWorker(settings) as running:
        work, other = assignment("wait_for", gate), assignment("add", 1, 2)
        await scheduler.send(work, other)
        await scheduler.until(lambda: bool(scheduler.outcomes.get(work.lease)))
        await asyncio.sleep(3.5)  # longer than the timeout: that nothing happens in it is what is tested
        assert running.worker.consumers[0].consuming
        worker_tasks.gates[gate].set()
        await scheduler.outcome(work)
        assert [each.kind for each in scheduler.outcomes[work.lease]] == [OutcomeKind.HELD, OutcomeKind.SUCCEEDED]


async def test_health_and_metrics_of_a_process_and_its_drain(broker: Broker, namespace: str) -> None:
    async with (
        StandInScheduler(broker.url, namespace) as scheduler,
        process(broker.url, namespace, "--http-port", "19465", "--name", "one") as worker,
    ):
        await scheduler.until(lambda: bool(scheduler.beats), 30.0)
        url = await _serving(worker)
        await scheduler.until(lambda: _get(f"{url}/readyz")[0] == 200, what="readiness")
        work = [assignment("add", 1, 2), assignment("add", 1, "2"), assignment("unknown")]
        await scheduler.send(*work)
        for each in work:
            await scheduler.outcome(each)
        await scheduler.until(lambda: "warren_worker_reply_tasks_sum 3.0" in _get(f"{url}/metrics")[1])
        text = _get(f"{url}/metrics")[1]
        for line in (
            'warren_worker_received_total{queue="default"} 3.0',
            'warren_worker_completed_total{queue="default",status="succeeded",task="add"} 1.0',
            'warren_worker_completed_total{queue="default",status="failed",task="add"} 1.0',
            'warren_worker_returned_total{queue="default",reason="unknown_function"} 1.0',
            'warren_worker_run_seconds_count{queue="default",task="add"} 2.0',
            'warren_worker_slot_wait_seconds_count{queue="default"} 2.0',
            "warren_worker_bundle_tasks_sum 3.0",
            "warren_worker_slots 4.0",
            "warren_worker_running 0.0",
            "warren_worker_draining 0.0",
        ):
            assert line in text, f"{line} is not in\n{text}"
        assert "_created" not in text
        long = assignment("plain_sleep", 1.0)
        await scheduler.send(long)
        await scheduler.until(lambda: "warren_worker_running 1.0" in _get(f"{url}/metrics")[1])
        worker.send_signal(signal.SIGTERM)
        await scheduler.until(lambda: _get(f"{url}/readyz")[0] == 503, what="no readiness while draining")
        assert json.loads(_get(f"{url}/readyz")[1])["checks"]["service"] == "draining"
        assert (await scheduler.outcome(long)).kind is OutcomeKind.SUCCEEDED
        assert await worker.wait() == 0


async def test_a_second_signal_stops_at_once(broker: Broker, namespace: str) -> None:
    async with StandInScheduler(broker.url, namespace) as scheduler:
        async with process(broker.url, namespace, WARREN_HTTP="off") as worker:
            await scheduler.until(lambda: bool(scheduler.beats), 30.0)
            work = [assignment("plain_sleep", 60.0), assignment("sleep", 60.0)]
            await scheduler.send(*work)
            await scheduler.until(lambda: len(scheduler.beats[-1].running) == 2)
            worker.send_signal(signal.SIGTERM)
            await scheduler.until(lambda: scheduler.beats[-1].draining)
            worker.send_signal(signal.SIGTERM)
            async with asyncio.timeout(15.0):
                assert await worker.wait() == 3
        assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 1


@pytest.mark.parametrize(
    ("failpoint", "effects", "replied"),
    [
        ("before_start", 0, False),
        ("after_start", 0, False),
        ("before_reply", 1, False),
        ("after_reply", 1, None),
        ("after_confirm", 1, True),
        ("after_ack", 1, True),
    ],
)
async def test_a_kill_at_each_failpoint(
    broker: Broker, namespace: str, tmp_path: Path, failpoint: str, effects: int, replied: bool | None
) -> None:
    log = tmp_path / "effects"
    log.touch()
    async with StandInScheduler(broker.url, namespace) as scheduler:
        armed = f"worker.{failpoint}:kill"
        async with process(broker.url, namespace, WARREN_HTTP="off", WARREN_FAILPOINTS=armed) as worker:
            await scheduler.until(lambda: bool(scheduler.beats), 30.0)
            work = assignment("append_line", str(log), "line")
            await scheduler.send(work)
            assert await worker.wait() == -signal.SIGKILL
        assert len(log.read_text().splitlines()) == effects
        async with process(broker.url, namespace, WARREN_HTTP="off") as worker:
            count = len(scheduler.beats)
            await scheduler.until(lambda: len(scheduler.beats) > count + 2, 30.0)
            last = assignment("add", 1, 2)
            await scheduler.send(last)
            await scheduler.outcome(last)
            kinds = [(outcome.kind, outcome.reason) for outcome in scheduler.outcomes.get(work.lease, [])]
            back = (OutcomeKind.RETURNED, ReturnReason.REDELIVERED)
            done = (OutcomeKind.SUCCEEDED, None)
            acceptable = {True: ([done], [done, back]), False: ([back],), None: ([done, back], [back])}[replied]
            assert kinds in acceptable
            if failpoint == "after_ack":
                assert kinds == [done], "what is acked does not come back"
        assert len(log.read_text().splitlines()) == effects, "what came back was not run"


async def test_children_of_a_killed_worker_die(broker: Broker, namespace: str) -> None:
    async with (
        StandInScheduler(broker.url, namespace) as scheduler,
        process(broker.url, namespace, WARREN_HTTP="off") as worker,
    ):
        await scheduler.until(lambda: bool(scheduler.beats), 30.0)
        describe = assignment("describe_process", isolation=Isolation.CHILD)
        sleeps = assignment("plain_sleep", 600.0, isolation=Isolation.CHILD)
        await scheduler.send(describe, sleeps)
        child = json.loads(bytes((await scheduler.outcome(describe)).result))["pid"]
        assert child != worker.pid
        three = "the zygotes, of suspects and of the pool, and the one that sleeps"
        await scheduler.until(lambda: len(_below(worker.pid)) == 3, what=three)
        below = _below(worker.pid)
        worker.kill()
        await worker.wait()
        await scheduler.until(lambda: not any(_runs(pid) for pid in below), what="the end of the children")


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def _serving(worker: Process) -> str:
    """The address that the worker serves: its port, or the next free one."""
    for port in range(19465, 19475):
        with suppress(OSError):
            await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/healthz")
            return f"http://127.0.0.1:{port}"
    raise AssertionError(f"worker {worker.pid} serves no metrics")


def _below(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= {int(child)} | _below(int(child))
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

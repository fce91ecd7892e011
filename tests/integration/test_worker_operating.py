"""What operators tell a worker, what its beats say, and its own queue, on a real broker."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from common.broker import ready_messages
from common.errors import PublishRefused
from common.wire import Beat, Control, ControlVerb, OutcomeKind, ReturnReason, WorkerAnswer, encode
from deploy.local import Broker
from tests.support import worker_tasks
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, queue_of, worker_settings


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of a gate that waiting task functions wait for; open at the end in any case."""
    worker_tasks.gates["gate"] = threading.Event()
    yield "gate"
    worker_tasks.gates["gate"].set()


def data_of(answer: WorkerAnswer) -> Any:
    assert not answer.error, answer.error
    return json.loads(bytes(answer.data))


def _channels(running: RunningWorker) -> int:
    """Open ones of the consuming connection: control queue, direct queue and work queue have one each."""
    connection: Any = running.worker._connections[0]
    channels = connection._raw.transport.connection.channels.items()
    return sum(number > 0 and channel is not None and not channel.is_closed for number, channel in channels)


async def listening(scheduler: StandInScheduler, running: RunningWorker) -> Beat:
    """Wait until the worker hears commands and has all its queues; a beat of that time."""
    await scheduler.until(lambda: running.worker.control.consuming and running.worker.direct.consuming)
    before = len(scheduler.beats)
    await scheduler.until(lambda: len(scheduler.beats) > before, what="a beat")
    return scheduler.beats[-1]


async def test_beats_say_all_that_schedulers_decide_by(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(
        broker.url,
        namespace,
        drain_timeout=1.0,
        slots=3,
        beat_interval=0.1,
        labels=["gpu", "eu"],
        processes=2,
        queues=["default", "b"],
    )
    async with (
        StandInScheduler(broker.url, namespace, ["default", "b"]) as scheduler,
        RunningWorker(settings) as running,
    ):
        work = [assignment("wait_for", gate), assignment("plain_wait_for", gate)]
        for each in work:
            await scheduler.send(each)
        await scheduler.until(lambda: len(scheduler.beats[-1].running) == 2 if scheduler.beats else False)
        await scheduler.until(lambda: min(scheduler.beats[-1].ages, default=0.0) > 0.2, what="ages to grow")
        beat = await listening(scheduler, running)
        assert len(beat.ages) == len(beat.running) == 2
        assert (beat.slots, beat.capacity, beat.processes) == (3, 3, 2)
        assert (beat.labels, beat.paused, beat.direct, beat.draining) == (["eu", "gpu"], False, True, False)
        await scheduler.until(lambda: scheduler.beats[-1].load.memory > 10_000_000, what="the memory")
        load = scheduler.beats[-1].load
        assert load.cores >= 1
        assert load.load_average > 0.0
        assert 0.0 <= load.loop_lag < 60.0
        assert not load.lowered


async def test_a_worker_announces_and_runs_what_its_labels_allow(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0, labels=["gpu"])
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        can, cannot = assignment("on_gpu", 7), assignment("on_big_gpu", 7)
        await scheduler.send(can, cannot)
        assert (await scheduler.outcome(can)).kind is OutcomeKind.SUCCEEDED
        outcome = await scheduler.outcome(cannot)
        assert (outcome.kind, outcome.reason) == (OutcomeKind.RETURNED, ReturnReason.UNKNOWN_FUNCTION)
        announced = scheduler.beats[0].functions or []
        assert "on_gpu" in announced
        assert "on_big_gpu" not in announced


async def test_the_direct_queue_is_served_like_a_work_queue_and_ends_with_the_worker(
    broker: Broker, namespace: str, gate: str
) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0, slots=2, beat_interval=0.1)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        async with RunningWorker(settings) as running:
            beat = await listening(scheduler, running)
            assert beat.direct
            named, waits = assignment("describe_on_loop"), assignment("wait_for", gate)
            await scheduler.send_direct(running.worker.id, named, waits, queue="special")
            described = json.loads(bytes((await scheduler.outcome(named)).result))
            assert described["queue"] == "special"
            await scheduler.until(lambda: scheduler.running(waits), what="its lease in a beat")
            # From the beginning of its end until what runs is finished, what comes here goes back.
            running.worker.service.drain()
            await scheduler.until(lambda: running.worker.executor._draining, what="the drain")
            late = assignment("add", 1, 2)
            await scheduler.send_direct(running.worker.id, late)
            assert (await scheduler.outcome(late)).reason is ReturnReason.DRAIN
            worker_tasks.gates[gate].set()
            assert (await scheduler.outcome(waits)).kind is OutcomeKind.SUCCEEDED
        with pytest.raises(PublishRefused):
            await scheduler.send_direct(running.worker.id, assignment("add", 1, 2))


async def test_the_direct_queue_comes_back_after_a_lost_connection(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        for connection in running.worker._connections:
            channel = await connection.open_channel()
            await channel.connection.close()
        await scheduler.until(lambda: not running.worker.direct.consuming, what="the loss")
        await scheduler.until(lambda: running.worker.direct.consuming, 30.0, what="the way back")
        work = assignment("add", 1, 2)
        await scheduler.send_direct(running.worker.id, work)
        assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED


async def test_ping_and_stats(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        worker = running.worker.id
        assert data_of(await scheduler.command(worker, ControlVerb.PING))["pid"] > 0
        good, bad, unknown = assignment("add", 1, 2), assignment("fail", "on purpose"), assignment("nobody.knows")
        blocked = assignment("wait_for", gate)
        await scheduler.send(good, bad, unknown, blocked)
        for each in (good, bad, unknown):
            await scheduler.outcome(each)
        stats = data_of(await scheduler.command(worker, ControlVerb.STATS))
        counted = {name: stats[name] for name in ("received", "started", "succeeded", "failed", "running", "waiting")}
        assert counted == {"received": 4, "started": 3, "succeeded": 1, "failed": 1, "running": 1, "waiting": 0}
        assert stats["returned"] == {"unknown_function": 1}
        assert stats["functions"]["add"]["succeeded"] == 1
        assert (stats["slots"], stats["capacity"], stats["paused"]) == (4, 4, False)
        assert stats["uptime"] > 0


async def test_drain_gives_back_and_stays_until_resume(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(
        broker.url, namespace, drain_timeout=1.0, slots=1, queue_patience=60.0, beat_interval=0.1
    )
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        worker = running.worker.id
        runs, waits = assignment("wait_for", gate), assignment("add", 1, 2)
        await scheduler.send(runs, waits)
        await scheduler.until(lambda: running.worker.executor.waiting == 1)
        answer = data_of(await scheduler.command(worker, ControlVerb.DRAIN))
        assert answer == {"paused": True, "running": 1}
        assert (await scheduler.outcome(waits)).reason is ReturnReason.DRAIN
        await scheduler.until(lambda: scheduler.beats[-1].paused, what="a beat that says so")
        assert not scheduler.beats[-1].draining
        assert running.worker._deaf() is None, "it is ready: it does as it was told"
        # What runs is finished, nothing new is taken, and what comes by its own queue goes back.
        later, direct = assignment("add", 3, 4), assignment("add", 5, 6)
        await scheduler.send(later)
        await scheduler.send_direct(worker, direct)
        assert (await scheduler.outcome(direct)).reason is ReturnReason.DRAIN
        worker_tasks.gates[gate].set()
        assert (await scheduler.outcome(runs)).kind is OutcomeKind.SUCCEEDED
        assert await ready_messages(scheduler.connection, queue_of(scheduler)) == 1
        assert not scheduler.final(later)
        for _ in range(2):  # twice is as once
            assert data_of(await scheduler.command(worker, ControlVerb.RESUME)) == {"paused": False}
        assert (await scheduler.outcome(later)).kind is OutcomeKind.SUCCEEDED
        await scheduler.until(lambda: not scheduler.beats[-1].paused)
        # The channel of before the drain is closed: one for each consumer, and no more.
        await scheduler.until(lambda: _channels(running) == 3, what="channels")


async def test_slots_change_while_running(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0, slots=2, beat_interval=0.1)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        worker = running.worker.id
        assert data_of(await scheduler.command(worker, ControlVerb.SLOTS, slots=6))["capacity"] == 6
        await scheduler.until(lambda: scheduler.beats[-1].slots == scheduler.beats[-1].capacity == 6)
        work = [assignment("plain_wait_for", gate) for _ in range(6)]
        for each in work:  # one to a bundle: the prefetch has to grow too
            await scheduler.send(each)
        await scheduler.until(lambda: running.worker.executor.running == 6, what="six at a time, each in a thread")
        data_of(await scheduler.command(worker, ControlVerb.SLOTS, slots=1))
        await scheduler.until(lambda: scheduler.beats[-1].slots == 1)
        assert running.worker.executor.running == 6, "what runs is left alone"
        worker_tasks.gates[gate].set()
        for each in work:
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
        worker_tasks.gates[gate].clear()
        two = [assignment("wait_for", gate) for _ in range(2)]
        await scheduler.send(*two)
        assert (await scheduler.outcome(two[1])).reason is ReturnReason.BUSY
        assert running.worker.executor.running == 1


async def test_the_log_level_changes(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0)
    root, before = logging.getLogger(), logging.getLogger().level
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        try:
            answer = data_of(await scheduler.command(running.worker.id, ControlVerb.LOG_LEVEL, level="ERROR"))
            assert answer == {"level": "ERROR", "before": logging.getLevelName(before)}
            assert root.level == logging.ERROR
        finally:
            root.setLevel(before)


async def test_shutdown_answers_drains_and_ends(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=30.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        work = assignment("wait_for", gate)
        await scheduler.send(work)
        await scheduler.until(lambda: running.worker.executor.running == 1)
        for _ in range(2):  # a second one does not cut the drain short
            assert data_of(await scheduler.command(running.worker.id, ControlVerb.SHUTDOWN)) == {"running": 1}
        refused = await scheduler.command(running.worker.id, ControlVerb.RESUME)
        assert "about to end" in refused.error
        worker_tasks.gates[gate].set()
        assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED
        assert await running.ended() == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"verb":"explode","token":"token-1"}', "explode"),
        (b'{"verb":"slots","token":"token-1","slots":0}', "slots"),
        (b'{"verb":"slots","token":"token-1","slots":"many"}', "slots"),
        (b'{"verb":"log-level","token":"token-1","level":"LOUD"}', "log-level"),
        (encode(Control(ControlVerb.SLOTS, token="token-1")), "slots needs a number"),
        (encode(Control(ControlVerb.LOG_LEVEL, token="token-1")), "log-level needs a level"),
    ],
)
async def test_what_cannot_be_done_is_answered_with_the_reason(
    broker: Broker, namespace: str, body: bytes, says: str
) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        for garbage in (b"", b"[]", b'{"token":5}', b'{"verb":"probe"}', b'{"verb":"cancel","leases":7}'):
            await scheduler.control("all", garbage)
        await scheduler.control(f"worker.{running.worker.id}", body)
        await scheduler.until(lambda: "token-1" in scheduler.answers, what="an answer")
        answer = scheduler.answers["token-1"][0]
        assert says in answer.error
        assert answer.worker == running.worker.id
        assert list(scheduler.answers) == ["token-1"], "garbage has no answer"
        data_of(await scheduler.command(running.worker.id, ControlVerb.PING))


async def test_commands_do_not_wait_for_a_blocked_event_loop(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        await listening(scheduler, running)
        blocker = assignment("block_for", 3.0)
        await scheduler.send(blocker)
        await scheduler.until(lambda: running.worker.executor.running == 1)
        started = time.monotonic()
        await asyncio.gather(
            *(scheduler.command(running.worker.id, verb) for verb in (ControlVerb.PING, ControlVerb.STATS))
        )
        assert time.monotonic() - started < 2.0
        assert not scheduler.final(blocker)

"""A worker that takes less while it has too much to bear, on a real broker."""

import logging
import threading
from collections.abc import Iterator

import pytest

from common.wire import ControlVerb, OutcomeKind
from deploy.local import Broker
from tests.support import worker_tasks
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, worker_settings
from worker_service import governor, load
from worker_service.events import SlotsChanged
from worker_service.vitals import memory

MIB = 1024 * 1024


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of a gate that waiting task functions wait for; open at the end in any case."""
    worker_tasks.gates["gate"] = threading.Event()
    yield "gate"
    worker_tasks.gates["gate"].set()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "EVERY", 0.1)
    monkeypatch.setattr(governor, "QUIET_LOOKS", 1)


async def test_memory_lowers_the_slots_and_its_release_raises_them(
    broker: Broker, namespace: str, gate: str, caplog: pytest.LogCaptureFixture
) -> None:
    bound = memory() + 200 * MIB
    settings = worker_settings(
        broker.url, namespace, slots=8, beat_interval=0.1, memory_high=bound, drain_timeout=1.0, processes=1
    )
    changes: list[SlotsChanged] = []
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        running.worker.telemetry.on(SlotsChanged, changes.append)
        work = [assignment("wait_for", gate) for _ in range(8)]
        await scheduler.send(*work)
        await scheduler.until(lambda: running.worker.executor.running == 8)
        with caplog.at_level(logging.INFO, logger="worker_service.load"):
            ballast = b"x" * (400 * MIB)
            await scheduler.until(lambda: scheduler.beats[-1].slots < 8, what="fewer slots")
            beat = scheduler.beats[-1]
            assert beat.capacity == 8
            assert "memory_high" in beat.load.lowered
            assert beat.load.memory > bound
            assert len(beat.running) == 8, "what runs is not touched"
            await scheduler.until(lambda: scheduler.beats[-1].slots == 1, what="one slot")
            # With more capacity it stays lowered.
            await scheduler.command(running.worker.id, ControlVerb.SLOTS, slots=10)
            await scheduler.until(lambda: scheduler.beats[-1].capacity == 10)
            assert scheduler.beats[-1].slots == 1
            worker_tasks.gates[gate].set()
            for each in work:
                assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
            del ballast
            await scheduler.until(lambda: scheduler.beats[-1].slots == 10, what="all slots again")
        assert not scheduler.beats[-1].load.lowered
        lines = [each for each in caplog.records if each.name == "worker_service.load"]
        assert len(lines) == len(changes), "one line for each change"
        assert [each.levelname for each in lines] == sorted([each.levelname for each in lines], reverse=True)


async def test_memory_of_processes_counts(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, beat_interval=0.1, drain_timeout=0.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        await scheduler.until(lambda: bool(scheduler.beats) and scheduler.beats[-1].load.memory > 0)
        before = scheduler.beats[-1].load.memory
        await scheduler.send(assignment("hold_memory", 200, 600.0))
        await scheduler.until(lambda: scheduler.beats[-1].load.memory > before + 190 * MIB, what="its memory")


async def test_a_late_event_loop_lowers_the_slots(broker: Broker, namespace: str) -> None:
    settings = worker_settings(
        broker.url, namespace, slots=4, beat_interval=0.1, loop_lag_high=0.2, loop_blocked_after=0.1, drain_timeout=1.0
    )
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        await scheduler.send(assignment("block_for", 1.5))
        await scheduler.until(lambda: bool(scheduler.beats) and scheduler.beats[-1].slots < 4, what="fewer slots")
        lowered = scheduler.beats[-1].load
        assert "loop_lag_high" in lowered.lowered
        assert lowered.loop_lag > 0.2
        await scheduler.until(lambda: scheduler.beats[-1].slots == 4, what="all slots again")

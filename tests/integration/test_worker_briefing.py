"""A worker runs nothing that was dispatched before it could hear, nor begins what it was given before a pause."""

import asyncio
import threading

import pytest

from common.wire import Isolation, OutcomeKind, ReturnReason
from deploy.local import Broker
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, worker_settings
from tests.support.worker_tasks import gates
from worker_service.events import StoodStill

AWAY = (OutcomeKind.RETURNED, ReturnReason.AWAY)


async def test_it_takes_nothing_until_it_is_told(broker: Broker, namespace: str) -> None:
    async with StandInScheduler(broker.url, namespace) as scheduler:
        scheduler.briefing = False
        running = RunningWorker(worker_settings(broker.url, namespace))
        entering = asyncio.create_task(running.__aenter__())
        try:
            await scheduler.until(
                lambda: sum(bool(beat.asking) for beat in scheduler.beats) >= 2, what="it asks, and again"
            )
            assert not running.worker.consumers[0].consuming
            assert "no scheduler has said yet" in str(running.worker._deaf())
            scheduler.briefing = True
            await entering
            work = assignment("add", 1, 2)
            await scheduler.send(work)
            assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED
            assert running.worker._deaf() is None
        finally:
            await running.__aexit__(None, None, None)


async def test_what_waited_in_the_queue_goes_back(broker: Broker, namespace: str) -> None:
    async with StandInScheduler(broker.url, namespace) as scheduler:
        scheduler.mark = 42
        before, since = assignment("add", 1, 2), assignment("add", 3, 4)
        await scheduler.send(before, number=41)
        await scheduler.send(since, number=42)
        async with RunningWorker(worker_settings(broker.url, namespace)):
            outcome = await scheduler.outcome(before)
            assert (outcome.kind, outcome.reason) == AWAY
            assert bytes((await scheduler.outcome(since)).result) == b"7"


async def test_a_scheduler_whose_store_was_put_back_is_believed(broker: Broker, namespace: str) -> None:
    async with StandInScheduler(broker.url, namespace) as scheduler:
        scheduler.mark = 1_000_000
        async with RunningWorker(worker_settings(broker.url, namespace)):
            scheduler.mark = 8
            refused = assignment("add", 1, 2)
            asked = len(scheduler.beats)
            await scheduler.send(refused, number=7)
            outcome = await scheduler.outcome(refused)
            assert (outcome.kind, outcome.reason) == AWAY
            await scheduler.until(lambda: any(beat.asking for beat in scheduler.beats[asked:]), what="it asks again")
            await scheduler.until(lambda: not scheduler.beats[-1].asking, what="it was told")
            work = assignment("add", 1, 2)
            await scheduler.send(work, number=8)
            assert (await scheduler.outcome(work)).kind is OutcomeKind.SUCCEEDED


class WatchedGate(threading.Event):
    """A gate that says when a task function has first looked at it."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_at = threading.Event()

    def is_set(self) -> bool:
        self.looked_at.set()
        return super().is_set()


async def test_after_a_pause_what_has_not_started_goes_back_and_what_runs_goes_on(
    broker: Broker, namespace: str
) -> None:
    gate = gates["pause"] = WatchedGate()
    settings = worker_settings(broker.url, namespace, slots=1, queue_patience=60.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        pauses: list[StoodStill] = []
        running.worker.telemetry.on(StoodStill, pauses.append)
        runs, waits = assignment("wait_for", "pause"), assignment("add", 1, 2)
        await scheduler.send(runs, waits, number=1)
        await scheduler.until(lambda: running.worker.executor.waiting == 1)
        await scheduler.until(gate.looked_at.is_set, what="it has begun")
        scheduler.mark = 5
        running.worker.pauses._looked_at -= 60.0  # as if nobody had looked for a minute
        outcome = await scheduler.outcome(waits)
        assert (outcome.kind, outcome.reason) == AWAY
        assert [round(each.seconds) for each in pauses] == [60]
        await running.until_consuming()
        buffered, later = assignment("add", 1, 2), assignment("add", 3, 4)
        await scheduler.send(buffered, number=4)
        outcome = await scheduler.outcome(buffered)
        assert (outcome.kind, outcome.reason) == AWAY
        gate.set()
        assert (await scheduler.outcome(runs)).kind is OutcomeKind.SUCCEEDED
        await scheduler.send(later, number=5)
        assert (await scheduler.outcome(later)).kind is OutcomeKind.SUCCEEDED


@pytest.mark.parametrize(
    ("task", "isolation"),
    [
        ("add", Isolation.NONE),
        ("plain_add", Isolation.NONE),
        ("add", Isolation.CHILD),
        ("process_add", Isolation.NONE),
    ],
)
async def test_a_runtime_does_not_begin_what_it_was_given_before_a_pause(
    broker: Broker, namespace: str, task: str, isolation: Isolation
) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        worker = running.worker
        runtimes = (worker.coroutines, worker.threads, worker.processes, worker.executor._children)
        missed = worker.pauses.missed
        for runtime in runtimes:
            runtime._missed = lambda begun: True  # type: ignore[attr-defined]
        work = assignment(task, 1, 2, isolation=isolation)
        await scheduler.send(work)
        outcome = await scheduler.outcome(work)
        assert (outcome.kind, outcome.reason) == AWAY
        for runtime in runtimes:
            runtime._missed = missed  # type: ignore[attr-defined]
        again = assignment(task, 1, 2, isolation=isolation)
        await scheduler.send(again)
        assert (await scheduler.outcome(again)).kind is OutcomeKind.SUCCEEDED

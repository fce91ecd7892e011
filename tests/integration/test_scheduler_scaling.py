"""The signals for scaling on the real broker: what operators are told is what Prometheus, so the autoscaler, reads."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from common.administration import ListQueues, QueueReport, Queues
from common.wire import Assignment, Outcome
from deploy.local import Broker
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold, succeed
from tests.support.waiting import eventually


def half_a_minute(assignment: Assignment) -> Outcome:
    """A success that is said to have run for 30 s."""
    outcome = succeed(assignment)
    outcome.run_seconds = 30.0
    return outcome


async def report(producer: Producer) -> QueueReport:
    answer = await producer.request(ListQueues(["default"]))
    assert isinstance(answer, Queues)
    return answer.queues[0]


async def counted(producer: Producer) -> QueueReport:
    """The report, once the second in which tasks came and ended is over, since only whole ones count."""
    for _ in range(200):
        found = await report(producer)
        if found.accepted and found.finished:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("no traffic is counted")


def gauge(scheduler: RunningScheduler, name: str) -> float | None:
    return scheduler.scheduler.health._registry.get_sample_value(name, {"queue": "default"})


async def test_depth_run_time_and_slots_say_how_long_it_takes_and_how_many_workers_it_needs(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=4) as worker:
        await scheduler.hears(worker)
        await producer.submit(*({} for _ in range(100)))
        await eventually(lambda: len(worker.holding) >= 4)
        await worker.finish(half_a_minute)
        for _ in range(2):  # the window shrinks to the slots, once it is known how long they run
            done = len(producer.told)
            await eventually(lambda: len(worker.holding) == 4)
            await worker.finish(half_a_minute)
            await eventually(partial(lambda before: len(producer.told) > before, done))
        await eventually(lambda: len(worker.holding) == 4)
        now = await counted(producer)
        waiting = 100 - len(worker.seen)
        assert (now.queued, now.dispatched + now.running, now.workers, now.slots) == (waiting, 4, 1, 4)
        assert now.drain_seconds == waiting * 30.0 / 4
        arriving = now.accepted * 30.0  # slots for what comes, as long as the minute of the burst lasts
        wanted = math.ceil((waiting * 30.0 / 60.0 + arriving) / 4)
        assert abs(now.recommended_workers - wanted) <= 1
        assert gauge(scheduler, "warren_queue_drain_seconds") == now.drain_seconds
        assert gauge(scheduler, "warren_tasks_unrunnable") == 0
        recommended = gauge(scheduler, "warren_recommended_workers")
        assert recommended is not None
        assert wanted / 2 <= recommended <= now.recommended_workers
    await eventually(lambda: not scheduler.scheduler._directory.workers)
    alone = await report(producer)
    assert alone.drain_seconds is None
    assert gauge(scheduler, "warren_queue_drain_seconds") == math.inf
    assert alone.recommended_workers > 0, "a pool that is scaled to zero is started again"

"""Tasks that no live worker can run: they wait and say why, however long it takes until a worker comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.administration import ListQueues, QueueReport, Queues
from common.wire import ErrorKind, ReturnReason
from deploy.local import Broker
from scheduler_service import operations
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, give_back
from tests.support.waiting import eventually

GRACE = 0.2
"""Seconds for which a function that no worker ever named is tried: what waits longer than this waits for good."""


@pytest.fixture
async def scheduler(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> AsyncIterator[RunningScheduler]:
    async with RunningScheduler(broker.url, namespace, tmp_path, unknown_function_grace=GRACE) as running:
        yield running


async def report(producer: Producer, queue: str = "default") -> QueueReport:
    answer = await producer.request(ListQueues([queue]))
    assert isinstance(answer, Queues)
    (found,) = answer.queues
    return found


def gauge(scheduler: RunningScheduler, name: str, queue: str = "default") -> float | None:
    return scheduler.scheduler.health._registry.get_sample_value(name, {"queue": queue})


async def stored(scheduler: RunningScheduler, function: str) -> None:
    """Wait until the store knows that a worker has named the function."""
    for _ in range(1000):
        if function in await scheduler.scheduler.store.run(operations.known_functions, 0.0):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{function} was not stored")


async def waits(scheduler: RunningScheduler, producer: Producer, id_: str, note: str, queue: str = "default") -> None:
    """It waits beyond the grace time, and everybody who asks is told why."""
    await asyncio.sleep(3 * GRACE)
    status = await producer.status(id_)
    assert (status["state"], status["note"]) == ("queued", note)
    found = await report(producer, queue)
    assert (found.queued, found.unrunnable, found.note, found.drain_seconds) == (1, 1, note, None)
    assert gauge(scheduler, "warren_tasks_unrunnable", queue) == 1


async def test_what_requires_labels_that_nobody_has_waits_even_if_nobody_knows_its_function(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace) as plain:
        await scheduler.hears(plain)
        (id_,) = await producer.submit({"task": "train", "options": {"requires": ["gpu"]}})
        note = "no live worker of the queue 'default' has the labels gpu"
        await waits(scheduler, producer, id_, note)
        async with StandInWorker(broker.url, namespace, functions=["train"], labels=["gpu"]) as able:
            assert (await producer.result(id_)).state == "succeeded"
            assert [each.task for each in able.seen] == ["train"]
        assert plain.seen == []


async def test_a_function_waits_that_workers_know_and_may_not_run(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, barred=["train"]) as plain:
        await scheduler.hears(plain)
        (id_,) = await producer.submit({"task": "train"})
        note = "no live worker of the queue 'default' knows the task function 'train' and may run it"
        await waits(scheduler, producer, id_, note)
        async with StandInWorker(broker.url, namespace, functions=["train"], labels=["gpu"]):
            assert (await producer.result(id_)).state == "succeeded"
        assert plain.seen == []


async def test_a_queue_that_no_worker_serves_keeps_its_tasks(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace) as other:
        await scheduler.hears(other)
        (id_,) = await producer.submit({"task": "train", "queue": "gpu"})
        await waits(scheduler, producer, id_, "no live worker serves the queue 'gpu'", "gpu")
        found = await report(producer, "gpu")
        assert found.recommended_workers == 1
        assert gauge(scheduler, "warren_recommended_workers", "gpu") == 1
        async with StandInWorker(broker.url, namespace, queues=["gpu"], functions=["train"]):
            assert (await producer.result(id_)).state == "succeeded"
        assert other.seen == []


async def test_a_pool_that_was_scaled_to_zero_is_remembered_over_a_restart(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    settings: dict[str, Any] = {"unknown_function_grace": GRACE}
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, **settings) as scheduler,
        StandInWorker(broker.url, namespace, functions=["train"]) as pool,
    ):
        await scheduler.hears(pool)
        await stored(scheduler, "train")
        await pool.leave()
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, **settings) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace) as other,
    ):
        await scheduler.hears(other)
        (id_,) = await producer.submit({"task": "train"})
        note = "no live worker of the queue 'default' knows the task function 'train' and may run it"
        await waits(scheduler, producer, id_, note)
        async with StandInWorker(broker.url, namespace, functions=["train"]):
            assert (await producer.result(id_)).state == "succeeded"
        assert other.seen == []


async def test_one_given_back_twice_by_who_does_not_know_it_waits_for_who_does(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    """The grace time does not run while it waits for a function that workers have named."""
    async with StandInWorker(broker.url, namespace, functions=["train"]) as pool:
        await scheduler.hears(pool)
        await pool.leave()
    async with StandInWorker(
        broker.url, namespace, lambda each: give_back(each, ReturnReason.UNKNOWN_FUNCTION), functions=[]
    ) as silent:  # it has not said what it knows, so it counts as able
        await scheduler.hears(silent)
        (id_,) = await producer.submit({"task": "train"})
        await eventually(lambda: len(silent.seen) >= 2)
        status = await producer.status(id_)
        assert status["state"] in ("scheduled", "queued", "dispatched", "running")
        async with StandInWorker(broker.url, namespace, functions=["train"]):
            assert (await producer.result(id_)).state == "succeeded"


@pytest.mark.parametrize("reason", [ReturnReason.UNKNOWN_FUNCTION, ReturnReason.UNDECODABLE])
async def test_who_names_a_function_and_does_not_understand_its_tasks_does_not_keep_them_for_ever(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, reason: ReturnReason
) -> None:
    async with StandInWorker(broker.url, namespace, lambda each: give_back(each, reason)) as confused:
        await scheduler.hears(confused)
        (id_,) = await producer.submit({})
        result = await producer.result(id_)
        assert (result.state, result.error and result.error.kind) == ("failed", ErrorKind.UNKNOWN_FUNCTION)

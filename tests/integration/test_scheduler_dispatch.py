"""What goes out when: returned tasks, unknown functions, and the window."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from common.states import State
from common.wire import Assignment, ErrorKind, Outcome, ReturnReason
from deploy.local import Broker
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, give_back, hold, succeed
from tests.support.waiting import eventually

# --- returned ----------------------------------------------------------------------------------------------------


async def test_a_task_that_is_returned_goes_to_another_slot_and_costs_no_attempt(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    returned: Counter[str] = Counter()

    def at_third_sight(assignment: Assignment) -> Outcome:
        returned[assignment.id] += 1
        return give_back(assignment, ReturnReason.BUSY) if returned[assignment.id] < 3 else succeed(assignment)

    async with StandInWorker(broker.url, namespace, at_third_sight) as worker:
        ids = await producer.submit({}, {})
        await producer.results(ids)
        assert returned == dict.fromkeys(ids, 3)
        assert {each.attempt for each in worker.seen} == {1}
        assert len({each.lease for each in worker.seen}) == 6


@pytest.mark.parametrize("reason", [ReturnReason.UNKNOWN_FUNCTION, ReturnReason.UNDECODABLE])
async def test_what_no_worker_understands_is_tried_for_a_while_and_then_fails(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None, reason: ReturnReason
) -> None:
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, unknown_function_grace=1.5) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, lambda each: give_back(each, reason)) as worker,
    ):
        await scheduler.hears(worker)
        started = time.monotonic()
        (id_,) = await producer.submit({"task": "mystery"})
        result = await producer.result(id_)
        assert (result.state, result.error and result.error.kind) == ("failed", ErrorKind.UNKNOWN_FUNCTION)
        assert time.monotonic() - started >= 1.5
        assert 2 <= len(worker.seen) <= 5
        assert (await scheduler.task(id_)).attempt == 1


async def test_an_unknown_function_runs_when_a_worker_that_knows_it_comes_in_time(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, lambda each: give_back(each, ReturnReason.UNKNOWN_FUNCTION)) as old:
        await scheduler.hears(old)
        (id_,) = await producer.submit({"task": "brand_new"})
        await eventually(lambda: old.seen)
        assert (await producer.status(id_))["state"] in ("scheduled", "queued", "dispatched", "running")
        old.decide = succeed
        assert (await producer.result(id_)).state == "succeeded"
        assert (await scheduler.task(id_)).state is State.SUCCEEDED


# --- the window --------------------------------------------------------------------------------------------------


async def test_no_more_is_out_than_the_window_holds(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    """Long tasks: the broker holds what runs, the store holds the rest."""
    async with StandInWorker(broker.url, namespace, hold, slots=4) as worker:
        await scheduler.hears(worker)
        ids = await producer.submit(*({} for _ in range(20)))
        for finished in range(0, 20, 4):
            await eventually(partial(lambda seen, done: len(seen) == done + 4, worker.seen, finished))
            assert (await producer.status(ids[-1]))["state"] in ("queued", "dispatched", "running")
            assert len(scheduler.scheduler._flights.by_lease) == 4
            assert await producer.ready("work.default") == 0
            outcomes = [succeed(held) for held in worker.holding.values()]
            for outcome in outcomes:
                outcome.run_seconds = 30.0
            await worker.reply(*outcomes)
        await producer.results(ids)
        assert worker.most == 4


async def test_short_tasks_open_the_window_up_to_its_limit(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, window_limit=60) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, slots=4) as worker,
    ):
        await scheduler.hears(worker)
        ids = await producer.submit(*({} for _ in range(1000)))
        await producer.results(ids)
        assert 4 < worker.most <= 60


async def test_two_workers_share_the_work(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with (
        StandInWorker(broker.url, namespace, hold, slots=3) as first,
        StandInWorker(broker.url, namespace, hold, slots=3) as second,
    ):
        await scheduler.hears(first, second)
        ids = await producer.submit(*({} for _ in range(10)))
        await eventually(lambda: len(first.holding) + len(second.holding) == 6)
        assert await producer.ready("work.default") == 0
        first.decide = second.decide = succeed
        await first.finish()
        await second.finish()
        await producer.results(ids)
        assert len(first.seen) + len(second.seen) == 10

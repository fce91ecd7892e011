"""Cancelling on a real broker: what waits, what is out, and who learns of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.ids import new_task_id
from common.questions import Cancel, Cancelled, Filter, Progress, ProgressReport
from common.states import State
from common.wire import ReturnReason
from deploy.local import Broker
from scheduler_service.storage import search
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, give_back, hold, succeed
from tests.support.waiting import eventually


@pytest.fixture
def worker(broker: Broker, namespace: str) -> StandInWorker:
    """Enter it when it is to work; it answers nothing by itself."""
    return StandInWorker(broker.url, namespace, hold)


async def stored(scheduler: RunningScheduler, *ids: str) -> None:
    """Wait until the last of these is in the store."""
    await eventually(lambda: scheduler.submitted >= len(ids))


async def test_what_waits_is_cancelled_at_once_and_for_good(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    queued, scheduled, kept = await producer.submit({}, {"options": {"delay": 60}}, {})
    await stored(scheduler, queued, scheduled, kept)
    missing = new_task_id()
    answer = await producer.request(Cancel(Filter(ids=[queued, scheduled, missing])))
    assert answer == Cancelled({queued: "cancelled", scheduled: "cancelled"}, [missing])
    assert {result.state for result in await producer.results([queued, scheduled])} == {"cancelled"}
    assert scheduler.scheduler._dispatcher.backlog == {"default": 1}
    assert scheduler.scheduler.timers.waiting == {}
    worker.decide = succeed
    async with worker:
        assert (await producer.result(kept)).state == "succeeded"
        assert [each.id for each in worker.seen] == [kept]
        assert scheduler.scheduler._dispatcher.backlog == {}
    assert await producer.cancel(kept, queued) == {kept: "succeeded", queued: "cancelled"}


async def test_what_is_out_is_cancelled_and_its_slot_is_taken_until_its_worker_gives_it_back(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        (id_,) = await producer.submit()
        await eventually(lambda: worker.holding)
        (lease,) = worker.holding
        assert await producer.cancel(id_) == {id_: "cancelled"}
        assert (await producer.result(id_)).state == "cancelled"
        await eventually(lambda: worker.cancelled)
        assert worker.cancelled[0] == lease
        assert list(scheduler.scheduler._flights.by_lease) == [lease]
        await worker.finish(lambda held: give_back(held, ReturnReason.CANCELLED))
        await eventually(lambda: not scheduler.scheduler._flights.by_lease)
        assert scheduler.scheduler._flights.out("default") == 0
        assert (await scheduler.task(id_)).state is State.CANCELLED


async def test_an_outcome_that_comes_after_the_cancel_changes_nothing(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        (id_,) = await producer.submit()
        await eventually(lambda: worker.holding)
        await producer.cancel(id_)
        await worker.finish()
        await eventually(lambda: not scheduler.scheduler._flights.by_lease)
        assert (await scheduler.task(id_)).state is State.CANCELLED
        assert producer.told[id_].state == "cancelled"


async def test_an_outcome_that_comes_before_the_cancel_stays(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = succeed
    async with worker:
        (id_,) = await producer.submit()
        await producer.result(id_)
        assert await producer.cancel(id_) == {id_: "succeeded"}
        assert worker.cancelled == []


async def test_a_cancelled_task_whose_worker_dies_is_over(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        (id_,) = await producer.submit()
        await eventually(lambda: worker.holding)
        await producer.cancel(id_)
        await worker.vanish()
        async with StandInWorker(broker.url, namespace, hold) as next_one:
            await eventually(lambda: not scheduler.scheduler._flights.by_lease)
            assert (len(next_one.redelivered), next_one.seen) == (1, [])
        assert (await scheduler.task(id_)).state is State.CANCELLED


async def test_a_worker_that_lists_what_is_over_is_told_again_also_by_a_scheduler_that_was_not_there(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None, worker: StandInWorker
) -> None:
    async with Producer(broker.url, namespace) as producer, worker:
        async with RunningScheduler(broker.url, namespace, tmp_path) as first:
            await first.hears(worker)
            (id_,) = await producer.submit()
            await eventually(lambda: worker.holding)
            (lease,) = worker.holding
            await producer.cancel(id_)
            await eventually(lambda: len(worker.cancelled) >= 2)
        worker.cancelled.clear()
        async with RunningScheduler(broker.url, namespace, tmp_path):
            await eventually(lambda: worker.cancelled)
            assert set(worker.cancelled) == {lease}


async def test_by_filter_page_by_page_and_only_ones_own(
    scheduler: RunningScheduler, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SCAN", 7)
    mine = [{"options": {"labels": {"batch": "7", "n": str(n)}, "key": "acme"}} for n in range(20)]
    ids = await producer.submit(*({"queue": "bulk", **task} for task in mine))
    others = await producer.submit({"queue": "bulk"}, {"options": {"labels": {"batch": "8"}}}, {"task": "other"})
    await stored(scheduler, *ids, *others)
    await scheduler.executed(f"UPDATE tasks SET owner = 'bob' WHERE id = '{ids[3]}'")
    states = await producer.cancel(labels={"batch": "7"}, queue="bulk", key="acme")
    assert states == dict.fromkeys(set(ids) - {ids[3]}, "cancelled")
    assert scheduler.scheduler._dispatcher.backlog == {"bulk": 2, "default": 2}
    assert await producer.cancel(labels={"batch": "7"}) == {}
    assert await producer.cancel(task="other", states=["queued"]) == {others[2]: "cancelled"}
    assert await producer.cancel(ids[3]) == {}


async def test_either_id_of_an_alias_cancels_and_both_are_told(scheduler: RunningScheduler, producer: Producer) -> None:
    keyed = {"options": {"idempotency_key": "k"}}
    first, second = await producer.submit(keyed, keyed)
    await eventually(lambda: scheduler.submitted >= 1)
    assert await producer.cancel(second) == {second: "cancelled"}
    assert {result.state for result in await producer.results([first, second])} == {"cancelled"}


async def test_progress_is_shown_while_a_task_is_out(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.started = False
    async with worker:
        await scheduler.hears(worker)
        (id_,) = await producer.submit()
        await eventually(lambda: worker.holding)
        (lease,) = worker.holding
        await eventually(lambda: scheduler.scheduler._directory.holder(lease))
        assert (await producer.status(id_))["state"] == "dispatched"
        report = ProgressReport(worker.name, {lease: Progress(3, 10, "reading", 5.0), "nobody's": Progress(1)})
        await worker.publisher.publish(f"{producer.topology.namespace}.beat", "beat", report, mandatory=False)
        flight = scheduler.scheduler._flights.by_lease[lease]
        await eventually(lambda: flight.progress)
        status = await producer.status(id_)
        assert status["progress"] == Progress(3, 10, "reading", 5.0)
        assert (status["state"], status["worker"]) == ("running", worker.name), (
            "progress proves it before the beat does"
        )
        await worker.finish()
        await producer.result(id_)
        assert (await producer.status(id_))["progress"] is None


async def test_a_filter_that_comes_again_does_not_reach_what_was_submitted_since(
    scheduler: RunningScheduler, producer: Producer
) -> None:
    """Each question may come twice, the second time long after its caller has gone on."""
    where = Filter(labels={"job": "1"})
    (old,) = await producer.submit({"options": {"labels": {"job": "1"}}})
    await stored(scheduler, old)
    start = await producer.request(Cancel(where))
    assert start.states == {}
    (new,) = await producer.submit({"options": {"labels": {"job": "1"}}})
    await stored(scheduler, old, new)
    for again in (Cancel(where), Cancel(where, start.next)):
        await producer.request(again)
    assert ((await scheduler.task(old)).state, (await scheduler.task(new)).state) == (State.CANCELLED, State.QUEUED)

"""Whose turn it is, on the real broker and store: order, shares, limits, who can run what; changed while it runs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.administration import Quotas, Rearrange, Rearranged, SetQuota
from common.questions import Filter
from common.quotas import Rate, Scope
from common.states import State
from common.wire import Assignment, Outcome
from deploy.local import Broker
from scheduler_service.fleet.lanes import Lane
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold, succeed
from tests.support.waiting import eventually


def slow(assignment: Assignment) -> Outcome:
    """A success that is said to have taken long, so that windows stay as small as the slots."""
    outcome = succeed(assignment)
    outcome.run_seconds = 30.0
    return outcome


async def set_quota(producer: Producer, scope: Scope, name: str, **what: Any) -> None:
    answer = await producer.request(SetQuota(scope=scope, name=name, **what))
    assert isinstance(answer, Quotas)
    assert answer.error == ""


async def rearrange(producer: Producer, where: Filter, **to: Any) -> Rearranged:
    answer = await producer.request(Rearrange(where, **to))
    assert isinstance(answer, Rearranged)
    return answer


def keyed(key: str, **more: Any) -> dict[str, Any]:
    return {"options": {"key": key}} | more


async def one_by_one(worker: StandInWorker, count: int) -> list[str]:
    """The ids in the order in which a worker of one slot gets them, each finished before the next comes."""
    for number in range(count):
        await eventually(partial(lambda seen: len(worker.seen) > seen, number))
        assert len(worker.seen) == number + 1
        await worker.finish(slow)
    return [each.id for each in worker.seen]


# --- order -----------------------------------------------------------------------------------------------------------


async def test_priorities_are_strict_and_functions_of_one_priority_go_in_store_order(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    tasks = [("add", 4), ("sub", 9), ("mul", 4), ("add", 9), ("sub", 0), ("mul", 4), ("add", 4)]
    ids = await producer.submit(*({"task": task, "priority": priority} for task, priority in tasks))
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 7})
    functions = ("add", "sub", "mul")
    async with StandInWorker(broker.url, namespace, hold, slots=1, functions=functions) as worker:
        order = await one_by_one(worker, 7)
        assert order == [ids[at] for at in (1, 3, 0, 2, 5, 6, 4)]


async def test_a_tenant_with_many_tasks_does_not_hold_up_one_with_few(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    many = await producer.submit(*(keyed("large") for _ in range(200)))
    few = await producer.submit(*(keyed("small") for _ in range(5)))
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 205})
    async with StandInWorker(broker.url, namespace, hold, slots=2) as worker:
        for _ in range(12):
            await eventually(lambda: len(worker.holding) == 2)
            await worker.finish(slow)
        seen = [each.id for each in worker.seen]
        assert set(few) <= set(seen)
        assert len(set(many) & set(seen)) >= 10


async def test_shares_of_keys_follow_their_weights(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    await set_quota(producer, Scope.KEY, "gold", weight=3.0)
    gold = await producer.submit(*(keyed("gold") for _ in range(100)))
    tin = await producer.submit(*(keyed("tin") for _ in range(100)))
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 200})
    async with StandInWorker(broker.url, namespace, hold, slots=4) as worker:
        for _ in range(20):
            await eventually(lambda: len(worker.holding) == 4)
            await worker.finish(slow)
        seen = Counter("gold" if each.id in set(gold) else "tin" for each in worker.seen[:80])
        assert seen["tin"] + seen["gold"] == 80
        assert abs(seen["gold"] - 60) <= 2
        assert set(tin) & {each.id for each in worker.seen}


async def test_queues_share_the_slots_of_a_worker_by_weight(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    await set_quota(producer, Scope.QUEUE, "email", weight=3.0)
    await producer.submit(*({"queue": queue} for queue in ("default", "email") for _ in range(30)))
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 30, "email": 30})

    def at_work() -> Counter[str]:
        return Counter(flight.queue for flight in scheduler.scheduler._flights.by_lease.values())

    async with StandInWorker(broker.url, namespace, hold, queues=["default", "email"], slots=8) as worker:
        await eventually(lambda: len(worker.holding) == 8)
        assert at_work() == {"email": 6, "default": 2}
        # What one does not use the other has.
        await set_quota(producer, Scope.QUEUE, "email", paused=True)
        await worker.finish(slow)
        await eventually(lambda: len(worker.holding) == 8)
        assert at_work() == {"default": 8}


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_paused_queue_is_still_and_goes_on_within_a_second(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, queues=["default", "email"], slots=8) as worker:
        await scheduler.hears(worker)
        await set_quota(producer, Scope.QUEUE, "email", paused=True)
        waiting = await producer.submit(*({"queue": "email"} for _ in range(5)))
        other = await producer.submit({}, {})
        await producer.results(other)
        status = await producer.status(waiting[0])
        assert (status["state"], status["note"]) == ("queued", "the queue 'email' is paused")
        assert {each.id for each in worker.seen} == set(other)
        resumed = time.monotonic()
        await set_quota(producer, Scope.QUEUE, "email", paused=False)
        await producer.results(waiting)
        assert time.monotonic() - resumed < 1.0


async def test_a_pause_counts_for_what_is_queued_already(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=2) as worker:
        await scheduler.hears(worker)
        ids = await producer.submit(*({} for _ in range(10)))
        await eventually(lambda: len(worker.holding) == 2)
        await set_quota(producer, Scope.QUEUE, "default", paused=True)
        await worker.finish(slow)
        await producer.results([each.id for each in worker.seen])
        await producer.status(ids[-1])
        assert len(worker.seen) == 2
        worker.decide = slow
        await set_quota(producer, Scope.QUEUE, "default", paused=False)
        await producer.results(ids)


async def test_a_paused_key_or_function_blocks_nobody_else(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, functions=("add", "sub")) as worker:
        await scheduler.hears(worker)
        await set_quota(producer, Scope.KEY, "late-payer", paused=True)
        await set_quota(producer, Scope.TASK, "sub", paused=True)
        blocked = await producer.submit(keyed("late-payer"), {"task": "sub"})
        fine = await producer.submit(keyed("anna"), {})
        await producer.results(fine)
        assert {each.id for each in worker.seen} == set(fine)
        await set_quota(producer, Scope.KEY, "late-payer", paused=False)
        await set_quota(producer, Scope.TASK, "sub", paused=False)
        await producer.results(blocked)


@pytest.mark.parametrize(("scope", "name"), [(Scope.QUEUE, "default"), (Scope.TASK, "add"), (Scope.KEY, "anna")])
async def test_no_more_run_at_a_time_than_the_concurrency_allows(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, scope: Scope, name: str
) -> None:
    await set_quota(producer, scope, name, concurrency=3)
    async with StandInWorker(broker.url, namespace, hold, slots=10) as worker:
        await scheduler.hears(worker)
        ids = await producer.submit(*(keyed("anna") for _ in range(9)))
        for done in range(0, 9, 3):
            await eventually(partial(lambda seen: len(worker.seen) == seen + 3, done))
            await worker.finish()
        await producer.results(ids)
        assert worker.most == 3
        await set_quota(producer, scope, name, concurrency=None)
        await producer.submit(*(keyed("anna") for _ in range(10)))
        await eventually(lambda: len(worker.holding) == 10)
        await worker.finish()


def most_within(moments: list[float], span: float) -> int:
    return max(sum(other <= at < other + span for other in moments) for at in moments)


async def test_a_rate_is_never_exceeded_and_is_used_up(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[float] = []
    ledger = scheduler.scheduler._dispatcher._ledger
    sent = ledger.sent

    def noted(lane: Lane, count: int, now: float) -> None:
        moments.extend([now] * count)
        sent(lane, count, now)

    # Not when they arrive: on the way one message may be slower than another.
    monkeypatch.setattr(ledger, "sent", noted)
    async with StandInWorker(broker.url, namespace, slots=50) as worker:
        await scheduler.hears(worker)
        await set_quota(producer, Scope.QUEUE, "default", rate=Rate(10, 0.5))
        ids = await producer.submit(*({} for _ in range(45)))
        await producer.results(ids)
    assert len(moments) == 45
    assert most_within(moments, 0.5) <= 10
    assert 2.0 <= moments[-1] - moments[0] < 4.0


async def test_a_restart_does_not_exceed_a_rate(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    moments: list[float] = []

    def note(assignment: Assignment) -> Outcome:
        moments.append(time.monotonic())
        return succeed(assignment)

    async with (
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, note, slots=50) as worker,
    ):
        ids: list[str] = []
        for _ in range(4):
            async with RunningScheduler(broker.url, namespace, tmp_path) as scheduler:
                await scheduler.hears(worker)
                if not ids:
                    await producer.results(await producer.submit())
                    moments.clear()
                    await set_quota(producer, Scope.TASK, "add", rate=Rate(5, 3.0))
                fresh = await producer.submit({}, {})
                ids += fresh
                await eventually(partial(lambda running: running.submitted >= 2, scheduler))
                if len(ids) <= 4:
                    await producer.results(fresh)
        async with RunningScheduler(broker.url, namespace, tmp_path) as scheduler:
            await producer.results(ids)
    assert len(moments) == 8
    assert most_within(moments, 2.95) <= 5
    assert moments[-1] - moments[0] < 8.0


async def test_what_is_published_again_after_a_restart_counts_for_the_rate_from_then_on(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    moments: dict[str, list[float]] = {}

    def note(assignment: Assignment) -> Outcome:
        moments.setdefault(assignment.id, []).append(time.monotonic())
        return succeed(assignment)

    async with (
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, hold, slots=50) as worker,
    ):
        async with RunningScheduler(broker.url, namespace, tmp_path) as first:
            await set_quota(producer, Scope.QUEUE, "default", rate=Rate(3, 2.0))
            await first.hears(worker)
            early = await producer.submit({}, {}, {})
            await eventually(lambda: len(worker.holding) == 3)
            await eventually(lambda: first.confirmed == 3)
            # As if the process had died nearly two seconds ago, before it had published what it had committed.
            await first.executed("UPDATE marks SET value = 0")
            await first.executed("UPDATE recent SET at = at - 1.9")
            first.scheduler._flights._open[0] = None
            await first.cut_short()
        worker.decide = note
        async with RunningScheduler(broker.url, namespace, tmp_path):
            await eventually(lambda: set(moments) == set(early))
            late = await producer.submit({}, {}, {})
            await producer.results(late)
    assert min(moments[each][0] for each in late) - min(moments[each][0] for each in early) > 1.5


async def test_quotas_are_there_after_a_restart(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, hold, slots=5) as worker,
    ):
        async with RunningScheduler(broker.url, namespace, tmp_path) as first:
            await set_quota(producer, Scope.QUEUE, "default", concurrency=2)
            await first.hears(worker)
            await producer.submit(*({} for _ in range(6)))
            await eventually(lambda: len(worker.holding) == 2)
        async with RunningScheduler(broker.url, namespace, tmp_path) as second:
            await second.hears(worker)
            await producer.submit({})
            await eventually(lambda: second.submitted == 1)
            assert len(worker.holding) == 2  # what is out from before counts
            for _ in range(3):
                await eventually(lambda: len(worker.holding) == 2)
                await worker.finish()
            assert worker.most == 2
            worker.decide = succeed
            await worker.finish()
            await eventually(lambda: len(worker.seen) == 7)


# --- who can run what ------------------------------------------------------------------------------------------------


async def test_a_function_that_one_worker_knows_goes_to_that_one(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with (
        StandInWorker(broker.url, namespace, slots=20, functions=["add"]) as plain,
        StandInWorker(broker.url, namespace, slots=4, functions=["add", "render"]) as able,
    ):
        await scheduler.hears(plain, able)
        ids = await producer.submit(*({"task": "render"} for _ in range(30)))
        both = await producer.submit(*({} for _ in range(30)))
        await producer.results(ids + both)
        assert "render" not in {each.task for each in plain.seen}
        assert {each.id for each in able.seen if each.task == "render"} == set(ids)
        assert {each.attempt for each in able.seen} == {1}
        assert able.most <= 4 + 30


async def test_labels_decide_who_is_sent_a_task_and_one_that_nobody_can_run_says_so(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    gpu = {"options": {"requires": ["gpu"]}}
    async with StandInWorker(broker.url, namespace) as plain:
        await scheduler.hears(plain)
        ids = await producer.submit(gpu, gpu)
        fine = await producer.submit({})
        await producer.results(fine)
        status = await producer.status(ids[0])
        note = "no live worker of the queue 'default' that knows 'add' has the labels gpu"
        assert (status["state"], status["note"]) == ("queued", note)
        assert [each.id for each in plain.seen] == fine
        async with StandInWorker(broker.url, namespace, labels=["gpu", "ssd"]) as able:
            await producer.results(ids)
            assert {each.id for each in able.seen} >= set(ids)
        assert [each.id for each in plain.seen] == fine


async def test_what_only_some_can_run_is_spread_over_them(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with (
        StandInWorker(broker.url, namespace, hold) as plain,
        StandInWorker(broker.url, namespace, hold, slots=3, labels=["gpu"]) as first,
        StandInWorker(broker.url, namespace, hold, slots=2, labels=["gpu"]) as second,
    ):
        await scheduler.hears(plain, first, second)
        ids = await producer.submit(*({"options": {"requires": ["gpu"]}} for _ in range(9)))
        await eventually(lambda: (len(first.holding), len(second.holding)) == (3, 2))
        for worker in (first, second):
            worker.decide = slow
            await worker.finish(slow)
        await producer.results(ids)
        assert plain.seen == []


async def test_what_was_sent_to_a_worker_that_is_gone_goes_elsewhere_at_once_and_costs_no_attempt(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    gone = StandInWorker(broker.url, namespace, labels=["gpu"], slots=50, direct=True)
    async with StandInWorker(broker.url, namespace) as plain:
        await gone.__aenter__()
        await scheduler.hears(plain, gone)
        await gone.vanish()
        sent = time.monotonic()
        async with StandInWorker(broker.url, namespace, labels=["gpu"], slots=2) as able:
            await scheduler.hears(able)
            ids = await producer.submit(*({"options": {"requires": ["gpu"]}} for _ in range(4)))
            results = await producer.results(ids)
            assert time.monotonic() - sent < 4.0
            assert {result.state for result in results} == {"succeeded"}
            assert {each.attempt for each in able.seen} == {1}
            assert scheduler.lost == {}


async def test_what_a_dead_worker_had_in_its_direct_queue_is_found(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with (
        StandInWorker(broker.url, namespace) as plain,
        StandInWorker(broker.url, namespace, hold, labels=["gpu"]) as doomed,
    ):
        await scheduler.hears(plain, doomed)
        ids = await producer.submit(*({"options": {"requires": ["gpu"]}} for _ in range(3)))
        await eventually(lambda: len(doomed.holding) == 3)
        async with StandInWorker(broker.url, namespace, labels=["gpu"]) as other:
            await scheduler.hears(other)
            died = time.monotonic()
            await doomed.vanish()
            results = await producer.results(ids)
            assert time.monotonic() - died < 6.0
            assert {result.state for result in results} == {"succeeded"}
            assert {each.id for each in other.seen} == set(ids)
        assert scheduler.lost == {"lost": 3, "suspects": 3}
        assert plain.seen == []


async def test_what_a_living_worker_never_got_is_found_and_it_is_told_to_drop_it(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    """Its connection broke and came back, with a new direct queue: the old one took what was in it along."""
    async with (
        StandInWorker(broker.url, namespace) as plain,
        StandInWorker(broker.url, namespace, labels=["gpu"]) as deaf,
    ):

        def forget(assignment: Assignment) -> None:
            del deaf.holding[assignment.lease]
            deaf.decide = succeed

        deaf.decide = forget
        await scheduler.hears(plain, deaf)
        (id_,) = await producer.submit({"options": {"requires": ["gpu"]}})
        assert (await producer.result(id_)).state == "succeeded"
        first, second = deaf.seen
        assert (first.attempt, second.attempt) == (1, 2)
        assert deaf.cancelled == [first.lease]
        assert deaf.renewed == []
        assert scheduler.lost == {"lost": 1, "suspects": 0}


async def test_a_direct_dispatch_is_published_again_after_a_restart_to_the_same_worker(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace) as plain,
        StandInWorker(broker.url, namespace, hold, labels=["gpu"]) as able,
    ):
        async with RunningScheduler(broker.url, namespace, tmp_path) as first:
            await first.hears(plain, able)
            (id_,) = await producer.submit({"options": {"requires": ["gpu"]}})
            await eventually(lambda: able.holding)
            await eventually(lambda: first.confirmed == 1)
            # As if the process had died before the confirm was noted.
            await first.executed("UPDATE marks SET value = 0")
            first.scheduler._flights._open[0] = None
            await first.cut_short()
        async with RunningScheduler(broker.url, namespace, tmp_path):
            await eventually(lambda: len(able.seen) == 2)
            assert {each.lease for each in able.seen} == {able.seen[0].lease}
            await able.finish()
            assert (await producer.result(id_)).state == "succeeded"
        assert plain.seen == []


# --- moving ----------------------------------------------------------------------------------------------------------


async def test_what_is_moved_runs_where_it_was_moved_to(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    ids = await producer.submit(*({"queue": "slow"} for _ in range(5)))
    later = await producer.submit({"queue": "slow", "options": {"delay": 1.5}})
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"slow": 5})
    async with StandInWorker(broker.url, namespace, queues=["quick"]) as worker:
        await scheduler.hears(worker)
        moved = await rearrange(producer, Filter(queue="slow"), queue="quick")
        assert (set(moved.ids), moved.error) == ({*ids, *later}, "")
        await producer.results(ids)
        assert scheduler.scheduler.timers.waiting == {"quick": 1}
        await producer.results(later)
        assert len(worker.seen) == 6
        await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {})
        assert scheduler.scheduler.timers.waiting == {}


async def test_a_higher_priority_goes_first_at_once(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    ids = await producer.submit(*({} for _ in range(6)))
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 6})
    await rearrange(producer, Filter(ids=[ids[4]]), priority=9)
    async with StandInWorker(broker.url, namespace, hold, slots=1) as worker:
        order = await one_by_one(worker, 6)
        assert order == [ids[at] for at in (4, 0, 1, 2, 3, 5)]


async def test_no_queue_comes_into_being_by_a_move_beyond_max_queues(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, max_queues=1) as scheduler,
        Producer(broker.url, namespace) as producer,
    ):
        (id_,) = await producer.submit()
        await eventually(lambda: scheduler.submitted == 1)
        refused = await rearrange(producer, Filter(), queue="other")
        assert "max_queues" in refused.error
        assert (await producer.status(id_))["queue"] == "default"


async def test_what_is_out_is_not_moved(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=1) as worker:
        await scheduler.hears(worker)
        (out,) = await producer.submit()
        await eventually(lambda: worker.holding)
        moved = await rearrange(producer, Filter(), queue="other")
        assert moved.ids == []
        await worker.finish()
        assert (await producer.result(out)).state == "succeeded"
        assert (await scheduler.task(out)).state is State.SUCCEEDED


# --- bounds ----------------------------------------------------------------------------------------------------------


async def test_tasks_of_very_many_keys_all_run_and_few_lanes_are_remembered(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, max_lanes=100) as scheduler,
        Producer(broker.url, namespace) as producer,
    ):
        ids = await producer.submit(*(keyed(f"tenant-{number}") for number in range(500)))
        await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 500})
        assert len(scheduler.scheduler._dispatcher._backlog) <= 101
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, max_lanes=100) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, slots=20) as worker,
    ):
        assert scheduler.scheduler._dispatcher.backlog == {"default": 500}
        await eventually(lambda: len(worker.seen) == 500)
        assert {each.id for each in worker.seen} == set(ids)
        await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {})
        await asyncio.sleep(0)

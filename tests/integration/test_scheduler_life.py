"""The life of a task on a real broker: delays, retries, expiry, keys."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from common.ids import new_task_id
from common.options import Backoff, BackoffKind, Policy
from common.questions import AskKind
from common.states import State
from common.wire import Advice, Assignment, ErrorKind, Outcome, ReturnReason
from deploy.local import Broker
from scheduler_service import events
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, fail, give_back, hold, succeed
from tests.support.waiting import eventually


def with_options(**options: Any) -> dict[str, Any]:
    return {"options": options}


async def known(producer: Producer, id_: str) -> dict[str, Any]:
    """The status of a task, once it is stored."""
    async with asyncio.timeout(10.0):
        while (await producer.ask(AskKind.STATUS, [id_])).unknown:
            pass
    return await producer.status(id_)


@pytest.fixture
def worker(broker: Broker, namespace: str) -> StandInWorker:
    """Enter it when it is to work."""
    return StandInWorker(broker.url, namespace)


# --- delays ------------------------------------------------------------------------------------------------------


async def test_a_delayed_task_waits_in_the_store_and_starts_when_it_is_due(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        await scheduler.hears(worker)
        began = time.time()
        late, later, soon = await producer.submit(
            with_options(delay=0.5), with_options(run_at=began + 3600), with_options(run_at=began - 3600)
        )
        assert (await producer.result(soon)).state == "succeeded"
        status = await known(producer, late)
        assert status["state"] == "scheduled"
        assert began + 0.5 <= status["due_at"] <= time.time() + 0.5
        assert scheduler.scheduler.timers.waiting == {"default": 2}
        assert (await producer.result(late)).state == "succeeded"
        assert (await scheduler.task(late)).due_at is None
        assert time.time() >= began + 0.5
        assert (await scheduler.task(later)).state is State.SCHEDULED
        assert scheduler.scheduler.timers.waiting == {"default": 1}


async def test_what_is_scheduled_is_counted_and_starts_after_a_restart(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None, worker: StandInWorker
) -> None:
    async with Producer(broker.url, namespace) as producer:
        async with RunningScheduler(broker.url, namespace, tmp_path):
            ids = await producer.submit(
                *({"queue": "default", **with_options(delay=1.5)} for _ in range(5)),
                {"queue": "email", **with_options(delay=3600)},
            )
            assert (await known(producer, ids[-1]))["state"] == "scheduled"
        async with RunningScheduler(broker.url, namespace, tmp_path) as scheduler, worker:
            assert scheduler.scheduler.timers.waiting == {"default": 5, "email": 1}
            assert {result.state for result in await producer.results(ids[:5])} == {"succeeded"}
            assert scheduler.scheduler.timers.waiting == {"email": 1}


# --- retries -----------------------------------------------------------------------------------------------------


QUICK = Advice(retries=2, backoff=Backoff(BackoffKind.CONSTANT, base=0.05, jitter=False))


async def test_a_failed_task_is_tried_again_as_its_worker_advises_and_its_attempts_are_kept(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    def fail_with_advice(assignment: Assignment) -> Outcome:
        outcome = fail(assignment)
        outcome.advice = QUICK
        return outcome

    worker.decide = fail_with_advice
    async with worker:
        (id_,) = await producer.submit(with_options(retries=2))
        result = await producer.result(id_)
        assert (result.state, result.error and result.error.type) == ("failed", "Boom")
        assert [each.attempt for each in worker.seen] == [1, 2, 3]
        assert worker.seen[0].policy == Policy(retries=2)
        status = await producer.status(id_)
        assert (status["attempt"], status["failures"]) == (3, 2)
        assert [(each.attempt, each.worker) for each in status["attempts"]] == [(at, worker.name) for at in (1, 2, 3)]
        assert {each.error.type for each in status["attempts"]} == {"Boom"}


async def test_a_retry_that_succeeds_is_a_success(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    def second_time(assignment: Assignment) -> Outcome:
        if assignment.attempt == 2:
            return succeed(assignment)
        outcome = fail(assignment, ErrorKind.RETRY)
        outcome.advice = Advice(after=0.05)
        return outcome

    worker.decide = second_time
    async with worker:
        (id_,) = await producer.submit()
        assert (await producer.result(id_)).state == "succeeded"
        assert scheduler.scheduler.timers.waiting == {}
        assert len((await producer.status(id_))["attempts"]) == 1


async def test_a_lost_attempt_is_kept(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with StandInWorker(broker.url, namespace, hold) as mortal:
        (id_,) = await producer.submit()
        await eventually(lambda: mortal.holding)
        await mortal.beat()
        await mortal.vanish()
        async with worker:
            assert (await producer.result(id_)).state == "succeeded"
            (lost,) = (await producer.status(id_))["attempts"]
            assert (lost.attempt, lost.error.type, lost.worker) == (1, "WorkerDied", mortal.name)


# --- expiry ------------------------------------------------------------------------------------------------------


async def test_what_has_not_started_by_its_time_expires_where_it_waits(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    now = time.time()
    ids = await producer.submit(
        with_options(expires_in=0.4), with_options(expires_at=now + 0.4), with_options(delay=30, expires_in=0.4)
    )
    over = await producer.submit(with_options(expires_at=now - 1))
    for result in await producer.results([*over, *ids]):
        assert (result.state, result.error) == ("expired", None)
    assert time.time() >= now + 0.4
    assert scheduler.scheduler._dispatcher.backlog == {}
    assert scheduler.scheduler.timers.waiting == {}
    async with worker:
        (id_,) = await producer.submit(with_options(expires_in=30))
        await producer.result(id_)
        assert [each.id for each in worker.seen] == [id_]
        assert 0 < worker.seen[0].starts_within <= 30


async def test_what_a_worker_could_not_start_in_time_expires(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = lambda assignment: give_back(assignment, ReturnReason.EXPIRED)
    async with worker:
        (id_,) = await producer.submit(with_options(expires_in=30))
        assert (await producer.result(id_)).state == "expired"
        assert scheduler.scheduler._flights.by_lease == {}


# --- keys --------------------------------------------------------------------------------------------------------


async def test_a_second_submission_with_the_same_key_is_the_first_task_again(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    keyed = with_options(idempotency_key="order-7")
    first, *others = await producer.submit({"args": [1, 1], **keyed}, {"args": [5, 5], **keyed})
    others += await producer.submit({"args": [7, 7], **keyed})
    status = await known(producer, others[1])
    assert (status["id"], status["alias_of"]) == (others[1], first)
    async with worker:
        results = await producer.results([first, *others])
        assert [bytes(result.result) for result in results] == [b"2", b"2", b"2"]
        others += await producer.submit({"args": [9, 9], **keyed})
        assert bytes((await producer.result(others[2])).result) == b"2"
        assert len(worker.seen) == 1


async def test_after_its_window_a_key_is_free_again(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    keyed = with_options(idempotency_key="order-7", idempotency_window=0.2)
    async with worker:
        (first,) = await producer.submit({"args": [1, 1], **keyed})
        await producer.result(first)
        submitted_at = (await producer.status(first))["submitted_at"]
        await eventually(lambda: time.time() > submitted_at + 0.2)
        (second,) = await producer.submit({"args": [2, 2], **keyed})
        assert bytes((await producer.result(second)).result) == b"4"
        assert len(worker.seen) == 2


async def test_an_alias_that_is_submitted_again_stays_one_also_after_the_window(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    keyed = with_options(idempotency_key="order-7", idempotency_window=0.2)
    alias = {"id": new_task_id(), "args": [5, 5], **keyed}
    async with worker:
        (first,) = await producer.submit({"args": [1, 1], **keyed})
        await producer.submit(alias, alias)
        await producer.results([first, alias["id"]])
        submitted_at = (await producer.status(first))["submitted_at"]
        await eventually(lambda: time.time() > submitted_at + 0.2)
        before = producer.times[alias["id"]]
        await producer.submit(alias)
        await eventually(lambda: producer.times[alias["id"]] > before)
        assert len(worker.seen) == 1
        assert scheduler.parked == {}


async def test_unique_holds_while_the_first_is_unfinished(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = hold
    unique = with_options(unique="nightly")
    async with worker:
        (first,) = await producer.submit(unique)
        await eventually(lambda: worker.holding)
        (second,) = await producer.submit(unique)
        assert (await known(producer, second))["alias_of"] == first
        await worker.finish()
        await producer.results([first, second])
        (third,) = await producer.submit(unique)
        await eventually(lambda: worker.holding)
        assert (await known(producer, third))["alias_of"] == ""
        await worker.finish()
        await producer.result(third)


async def test_keys_are_each_users_own_and_the_same_submission_again_is_no_alias(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    task = {"id": new_task_id(), "args": [1, 1], **with_options(idempotency_key="k", unique="u")}
    async with worker:
        for _ in range(3):
            await producer.submit(task)
        await producer.result(task["id"])
        assert Counter(each.id for each in worker.seen) == {task["id"]: 1}
        assert scheduler.parked == {}


async def test_each_failed_attempt_is_counted_with_its_reason_and_with_what_follows(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    counted: Counter[tuple[str, str, bool]] = Counter()

    def count(event: events.AttemptsFailed) -> None:
        counted[event.queue, event.kind, event.retried] += event.count

    scheduler.scheduler.telemetry.on(events.AttemptsFailed, count)
    worker.decide = lambda each: replace(fail(each), advice=QUICK)
    async with worker:
        (id_,) = await producer.submit(with_options(retries=2))
        await producer.result(id_)
    assert counted == {("default", "exception", True): 2, ("default", "exception", False): 1}

"""What the scheduler does when something dies, vanishes, forgets or freezes."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import failpoints
from common.broker import consumer
from common.errors import SettingsError
from common.questions import AskKind
from common.wire import Assignment, Bundle, Isolation, Outcome, ReturnReason
from deploy.local import Broker
from scheduler_service import gate
from scheduler_service.storage import engine
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, fail, give_back, hold, succeed
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


# --- one scheduler, and its next life ----------------------------------------------------------------------------


async def test_a_second_scheduler_is_refused_in_a_clear_sentence(
    broker: Broker,
    namespace: str,
    tmp_path: Path,
    scheduler: RunningScheduler,
    producer: Producer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "PATIENCE", 0.5)
    second = RunningScheduler(broker.url, namespace, tmp_path / "of-the-second")
    with pytest.raises(SettingsError, match=f"'{namespace}': another scheduler is running"):
        await second.scheduler.run()
    async with StandInWorker(broker.url, namespace):
        (id_,) = await producer.submit()
        assert (await producer.result(id_)).state == "succeeded"


@pytest.mark.parametrize("failpoint", ["dispatcher.before_publish", "dispatcher.after_publish"])
async def test_a_restart_publishes_again_what_was_not_confirmed(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None, failpoint: str
) -> None:
    async with Producer(broker.url, namespace) as producer, StandInWorker(broker.url, namespace, hold) as worker:
        async with RunningScheduler(broker.url, namespace, tmp_path) as first:
            await first.hears(worker)
            failpoints.arm(f"{failpoint}:hang")
            (id_,) = await producer.submit()
            await eventually(lambda: first.scheduler._flights.by_lease)
            lease = (await first.task(id_)).lease
            if failpoint == "dispatcher.before_publish":
                assert worker.seen == []
            else:
                await eventually(lambda: worker.seen)
            await first.cut_short()
        failpoints.disarm()
        seen = len(worker.seen)
        async with RunningScheduler(broker.url, namespace, tmp_path) as second:
            await eventually(lambda: len(worker.seen) == seen + 1)
            assert {(each.lease, each.attempt) for each in worker.seen} == {(lease, 1)}
            await worker.finish()
            assert (await producer.result(id_)).state == "succeeded"
            assert second.scheduler._flights.by_lease == {}
            assert second.lost == {}


async def test_a_restart_finds_the_backlog_and_what_is_out(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, hold, slots=2) as worker,
    ):
        async with RunningScheduler(broker.url, namespace, tmp_path) as first:
            await first.hears(worker)
            ids = await producer.submit(*({"args": [number]} for number in range(6)))
            await eventually(lambda: len(worker.holding) == 2)
        worker.decide = succeed
        async with RunningScheduler(broker.url, namespace, tmp_path) as second:
            await worker.finish()
            results = await producer.results(ids)
            assert {result.state for result in results} == {"succeeded"}
            assert Counter(each.id for each in worker.seen) == Counter(ids)
            assert second.lost == {}


async def test_a_scheduler_that_loses_its_connections_comes_back(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold) as worker:
        await scheduler.hears(worker)
        ids = await producer.submit({}, {})
        await eventually(lambda: len(worker.holding) == 2)
        for connection in scheduler.scheduler._connections:
            assert connection._raw is not None
            await connection._raw.close()
        await eventually(lambda: not scheduler.ready)
        await worker.finish()
        ids += await producer.submit({})
        await eventually(lambda: len(worker.holding) == 1)
        await worker.finish()
        await eventually(lambda: scheduler.ready)
        await producer.ask(AskKind.WAIT, ids)  # what was told meanwhile had no connection to go by
        assert {result.state for result in await producer.results(ids)} == {"succeeded"}


# --- the store ---------------------------------------------------------------------------------------------------


async def test_a_locked_database_stops_the_acks_and_nothing_else(
    broker: Broker,
    namespace: str,
    tmp_path: Path,
    quick_rescue: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(consumer, "LONGEST_RETRY", 0.3)
    async with (
        RunningScheduler(broker.url, namespace, tmp_path) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace, hold) as worker,
    ):
        await scheduler.hears(worker)
        (running,) = await producer.submit()
        await eventually(lambda: worker.holding)
        other = sqlite3.connect(tmp_path / "warren.db", isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            await worker.finish()
            (submitted,) = await producer.submit()
            await eventually(lambda: "store" in scheduler.faults)
            await eventually(lambda: "consumers" in scheduler.faults)
            assert "locked" in scheduler.faults["store"]
            assert producer.told == {}
            other.execute("ROLLBACK")
        finally:
            other.close()
        worker.decide = succeed
        await producer.results([running])
        await eventually(lambda: len(worker.seen) == 2)
        await worker.finish()
        await producer.results([submitted])
        await eventually(lambda: scheduler.ready)
        assert producer.times == {running: 1, submitted: 1}


async def test_a_full_disk_makes_it_wait_and_it_goes_on_by_itself(
    broker: Broker, namespace: str, small_disk: Path, quick_rescue: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "LONGEST_RETRY", 0.3)
    async with (
        RunningScheduler(broker.url, namespace, small_disk) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace) as worker,
    ):
        await scheduler.hears(worker)
        filler = small_disk / "filler"
        fill(filler)
        text = "x" * 20_000
        ids = [id_ for _ in range(5) for id_ in await producer.submit(*({"kwargs": {"text": text}} for _ in range(4)))]
        await eventually(lambda: "store" in scheduler.faults)
        assert len(producer.told) < len(ids)
        filler.unlink()
        assert {result.state for result in await producer.results(ids)} == {"succeeded"}
        await eventually(lambda: scheduler.ready)


def fill(filler: Path) -> None:
    """Write until there is no room."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


# --- the broker forgets ------------------------------------------------------------------------------------------


async def test_what_was_redelivered_though_nobody_died_is_dispatched_anew_and_nobody_subscribes_anew(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    """RabbitMQ 4.3 redelivers what was on its way to a consumer that was cancelled; a new one would make more of it."""
    refused: set[str] = set()

    def refuse_once(assignment: Assignment) -> Outcome:
        if assignment.id in refused:
            return succeed(assignment)
        refused.add(assignment.id)
        return give_back(assignment, ReturnReason.REDELIVERED)

    async with StandInWorker(broker.url, namespace, refuse_once) as worker:
        await scheduler.hears(worker)
        ids = await producer.submit(*({} for _ in range(5)))
        results = await producer.results(ids)
        assert {each.state for each in results} == {"succeeded"}
        assert len(worker.seen) == 10
        assert worker.renewed == []
    assert scheduler.lost == {}


async def test_what_was_purged_from_a_work_queue_is_dispatched_anew(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, deaf=True) as deaf:
        await scheduler.hears(deaf)
        ids = await producer.submit({}, {}, {})
        await eventually(lambda: len(scheduler.scheduler._flights.by_lease) == 3)
        await eventually(lambda: scheduler.confirmed == 3)
        channel = await producer.connection.open_channel()
        await channel.queue_purge(f"{namespace}.work.default")
        await channel.close()
        async with StandInWorker(broker.url, namespace) as worker:
            assert {result.state for result in await producer.results(ids)} == {"succeeded"}
            assert {(each.attempt, each.isolation) for each in worker.seen} == {(2, Isolation.NONE)}
        await eventually(lambda: "default" in deaf.renewed)
    assert scheduler.lost == {"lost": 3, "suspects": 0}


async def test_what_waits_in_the_work_queue_is_not_lost(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    """Out for long and in nobody's beat, but still in the queue: dispatching it anew would run it twice."""
    async with StandInWorker(broker.url, namespace, deaf=True) as deaf:
        await scheduler.hears(deaf)
        ids = await producer.submit({}, {})
        await eventually(lambda: "default" in scheduler.scheduler._flights.paused)
        async with StandInWorker(broker.url, namespace) as worker:
            await producer.results(ids)
            assert {each.attempt for each in worker.seen} == {1}
            assert len(worker.seen) == 2
            (more,) = await producer.submit({})
            await producer.result(more)
    assert scheduler.lost == {}


async def test_a_work_queue_that_was_deleted_comes_back(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace) as worker:
        await scheduler.hears(worker)
        (first,) = await producer.submit()
        await producer.result(first)
        channel = await producer.connection.open_channel()
        await channel.queue_delete(f"{namespace}.work.default")
        await channel.close()
        (second,) = await producer.submit()
        assert (await producer.result(second)).state == "succeeded"


async def test_a_dead_letter_means_that_its_tasks_came_back(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, deaf=True) as deaf:
        await scheduler.hears(deaf)
        ids = await producer.submit({}, {})
        await eventually(lambda: len(scheduler.scheduler._flights.by_lease) == 2)
        channel = await producer.connection.open_channel()
        bodies: list[bytes] = []
        while sum(body.count(b'"lease"') for body in bodies) < 2:
            message = await channel.basic_get(f"{namespace}.work.default", no_ack=True)
            if message.body:
                bodies.append(message.body)
        await channel.close()
        for body in bodies:
            await producer.send(body, queue="dead", type=Bundle.TYPE)
        async with StandInWorker(broker.url, namespace) as worker:
            assert {result.state for result in await producer.results(ids)} == {"succeeded"}
            assert {each.attempt for each in worker.seen} == {2}
    assert await scheduler.rows() == []


# --- workers die and freeze --------------------------------------------------------------------------------------


async def test_what_a_dead_worker_held_is_a_suspect(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=3) as first:
        await scheduler.hears(first)
        ids = await producer.submit({}, {}, {})
        await eventually(lambda: len(first.holding) == 3)
        await first.beat()
        async with StandInWorker(broker.url, namespace) as second:
            await scheduler.hears(second)
            await first.vanish()
            assert {result.state for result in await producer.results(ids)} == {"succeeded"}
            assert sorted(second.redelivered) == sorted(each.lease for each in first.seen)
            assert {(each.id, each.attempt, each.isolation) for each in second.seen} == {
                (id_, 2, Isolation.CHILD) for id_ in ids
            }
            assert set(second.bundles) == {1}
    assert scheduler.lost == {"lost": 3, "suspects": 3}


async def test_a_frozen_worker_is_given_up_and_its_late_answer_changes_nothing(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold) as frozen:
        await scheduler.hears(frozen)
        (id_,) = await producer.submit()
        await eventually(lambda: frozen.holding)
        await frozen.beat()
        async with StandInWorker(broker.url, namespace) as second:
            await frozen.freeze(deaf=True)
            assert (await producer.result(id_)).state == "succeeded"
            (run,) = second.seen
            assert run.attempt >= 2  # the broker may have given the frozen one the second attempt as well
            before = await scheduler.task(id_)
            late = await frozen.finish(fail)
            assert late >= 1
            await eventually(lambda: producer.times[id_] > 1)  # told again, once for each batch
            assert await scheduler.task(id_) == before
            assert producer.told[id_].state == "succeeded"


async def test_a_worker_that_leaves_in_peace_makes_no_suspects(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer
) -> None:
    async with StandInWorker(broker.url, namespace, hold) as first:
        await scheduler.hears(first)
        (id_,) = await producer.submit()
        await eventually(lambda: first.holding)
        await first.leave()
        async with StandInWorker(broker.url, namespace) as second:
            await producer.result(id_)
            (run,) = second.seen
            assert (run.attempt, run.isolation) == (1, Isolation.NONE)
    assert scheduler.lost == {}

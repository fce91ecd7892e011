"""What operators see and do, with a real scheduler, a real broker and the real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from common.administration import ChangeMade, CommandAnswers, QueueReport, WorkerState
from common.broker import Consumer, Delivery
from common.client.aio import AsyncClient
from common.errors import InvalidFilter, InvalidQuota
from common.ids import new_nonce
from common.quotas import Quota, Rate, Scope
from common.tasks import call
from common.topology import Queue
from common.wire import ControlVerb, decode
from deploy.local import Broker
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold
from tests.support.waiting import eventually


@pytest.fixture
async def client(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.url, namespace=namespace) as connected:
        yield connected


@pytest.fixture
async def worker(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[StandInWorker]:
    async with StandInWorker(broker.url, namespace) as connected:
        await scheduler.hears(connected)
        yield connected


async def queue(client: AsyncClient, name: str = "default") -> QueueReport:
    (report,) = await client.queues(name)
    return report


async def until(client: AsyncClient, holds: Callable[[QueueReport], bool], name: str = "default") -> QueueReport:
    """The queue's report, once `holds` of it."""
    async with asyncio.timeout(20):
        while True:
            found = await client.queues(name)
            if found and holds(found[0]):
                return found[0]
            await asyncio.sleep(0.02)


async def test_a_paused_queue_dispatches_nothing_until_it_is_resumed(
    client: AsyncClient, worker: StandInWorker
) -> None:
    assert (await client.pause("default")).paused
    handle = await client.submit("add", 1)
    report = await until(client, lambda report: report.queued == 1)
    assert (report.note, report.drain_seconds, report.workers, report.slots) == ("paused", None, 1, 4)
    status = await handle.status()
    assert (status.state, status.note) == ("queued", "the queue 'default' is paused")
    assert worker.seen == []

    await client.resume("default")
    assert await handle.result(10) == 1
    report = await until(client, lambda report: report.queued == 0)
    assert (report.note, report.quota) == ("", None)


async def test_a_queue_that_nothing_names_is_told_apart(client: AsyncClient, worker: StandInWorker) -> None:
    assert (await client.pause("default")).known, "a worker serves it"
    assert not (await client.pause("bulk")).known
    assert not (await client.pause("bulk")).known, "asking twice changes nothing"
    await client.options(queue="bulk").submit("add", 1)
    await until(client, lambda report: report.queued == 1, "bulk")
    assert [(quota.name, quota.known) for quota in await client.quotas()] == [("bulk", True), ("default", True)]


async def test_a_change_is_stored_told_and_survives_a_restart(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    heard: list[ChangeMade] = []
    keys: list[str] = []

    def hear(delivery: Delivery) -> None:
        assert delivery.type == ChangeMade.TYPE
        heard.append(decode(ChangeMade, delivery.body))
        keys.append(heard[-1].change.what)

    wanted = Quota(scope=Scope.QUEUE, name="email", weight=3.0, rate=Rate(90, 60.0), concurrency=20, known=False)
    async with RunningScheduler(broker.url, namespace, tmp_path) as first:
        topology = first.scheduler._dispatcher._sender._topology
        events = Queue(
            f"{namespace}.client.guest.{new_nonce()}", False, True, {}, topology.event_exchange, ("change.quota",)
        )
        consumer = Consumer(first.scheduler._connections[0], events, hear, prefetch=0, no_ack=True)
        await consumer.start()
        await eventually(lambda: consumer.consuming)
        async with AsyncClient(broker.url, namespace=namespace) as client:
            assert await client.set_quota("queue", "email", weight=3, rate="90/m", concurrency=20) == wanted
            assert await client.set_quota("queue", "email", weight=3) == wanted, "what is not said stays"
            assert await client.set_quota("key", "anna", weight=2) is not None
            await eventually(lambda: len(heard) == 2)
            await client.move("bulk", queue="nothing")
        await consumer.stop()
        assert keys == ["quota", "quota"]
        assert "weight 1 -> 3" in heard[0].change.detail
    async with (
        RunningScheduler(broker.url, namespace, tmp_path),
        AsyncClient(broker.url, namespace=namespace) as client,
    ):
        assert [quota.name for quota in await client.quotas()] == ["anna", "email"]
        assert await client.quotas("queue") == [wanted]
        changes = [change async for change in client.changes()]
        assert [(change.user, change.what, change.name) for change in changes] == [
            ("guest", "quota", "anna"),
            ("guest", "quota", "email"),
        ]
        assert changes[1] == heard[0].change
        assert (await queue(client, "email")).quota == replace(wanted, known=True), "a report shows what names it"


@pytest.mark.parametrize(("scope", "word"), [("task", "weight"), ("task", "ageing"), ("key", "ageing")])
async def test_a_quota_that_makes_no_sense_is_refused(client: AsyncClient, scope: str, word: str) -> None:
    with pytest.raises(InvalidQuota):
        await client.set_quota(scope, "x", **{word: 2.0})  # type: ignore[arg-type]
    assert await client.quotas() == []


@pytest.mark.parametrize(("scope", "name"), [("queue", "a b/*#."), ("queue", "x" * 65), ("task", "1 + 1")])
async def test_a_quota_for_what_cannot_be_is_refused(client: AsyncClient, scope: str, name: str) -> None:
    with pytest.raises(InvalidQuota, match="cannot be the name of a"):
        await client.set_quota(scope, name, concurrency=2)
    assert await client.quotas() == []


async def test_what_waits_is_moved_to_where_a_worker_is(
    client: AsyncClient, worker: StandInWorker, scheduler: RunningScheduler
) -> None:
    calls = [call("add", number) for number in range(30)]
    handles = await client.options(queue="bulk").submit_many(calls)
    later = await client.options(queue="bulk", delay=3600).submit("add", 1)
    report = await until(client, lambda report: report.queued == 30 and report.scheduled == 1, "bulk")
    assert report.unrunnable == 30
    assert report.note == "no live worker serves the queue 'bulk'"
    assert report.recommended_workers == 1
    assert (await handles[0].status()).note == "no live worker serves the queue 'bulk'"

    assert await client.reprioritise(9, ids=[handles[-1].id]) == 1
    assert (await handles[-1].status()).priority == 9
    assert await client.move("default", queue="bulk") == 31
    assert [await handle.result(10) for handle in handles] == list(range(30))
    report = await until(client, lambda report: report.queued == 0, "bulk")
    assert report.scheduled == 0
    assert (await queue(client)).scheduled == 1
    assert (await later.status()).queue == "default"
    whats = [change.what async for change in client.changes()]
    assert whats == ["move", "reprioritise"]


async def test_nothing_is_moved_to_one_queue_too_many(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, max_queues=1),
        AsyncClient(broker.url, namespace=namespace) as client,
    ):
        handle = await client.submit("add", 1)
        await until(client, lambda report: report.queued == 1)
        with pytest.raises(InvalidFilter, match="there is no queue 'other', and no room for one more"):
            await client.move("other", queue="default")
        assert (await handle.status()).queue == "default"


async def test_a_queue_is_purged_and_what_is_out_goes_on(
    broker: Broker, namespace: str, client: AsyncClient, scheduler: RunningScheduler
) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=2) as worker:
        await scheduler.hears(worker)
        running = await client.submit_many([call("add", 1)] * 2)
        await eventually(lambda: len(worker.holding) == 2)
        await client.pause("default")
        waiting = await client.submit_many([call("add", 1)] * 20)
        await client.options(delay=60).submit("add", 1)
        await until(client, lambda report: report.queued == 20 and report.scheduled == 1)
        assert await client.purge("default") == 21
        await until(client, lambda report: (report.queued, report.scheduled, report.running) == (0, 0, 2))
        assert (await waiting[0].status()).state == "cancelled"
        await worker.finish()
        assert [await handle.result(10) for handle in running] == [1, 1]
    assert [change.what async for change in client.changes(limit=1)] == ["purge"]


async def test_workers_are_shown_as_they_are(
    broker: Broker, namespace: str, client: AsyncClient, scheduler: RunningScheduler
) -> None:
    async with StandInWorker(broker.url, namespace, hold, labels=["gpu"]) as worker:
        await scheduler.hears(worker)
        handle = await client.submit("add", 1)
        await eventually(lambda: len(worker.holding) == 1)
        await eventually(lambda: bool(scheduler.scheduler._directory.workers[worker.name].running))
        (report,) = await client.workers()
        assert (report.worker, report.state, report.slots, report.labels) == (worker.name, "alive", 4, ["gpu"])
        assert [attempt.id for attempt in report.running] == [handle.id]
        await worker.finish()
    await eventually(lambda: not scheduler.scheduler._directory.workers)
    (report,) = await client.workers()
    assert (report.worker, report.state, report.running) == (worker.name, WorkerState.LOST, [])


async def test_a_command_goes_to_those_that_are_meant_once(
    broker: Broker, namespace: str, client: AsyncClient, worker: StandInWorker, scheduler: RunningScheduler
) -> None:
    async with StandInWorker(broker.url, namespace) as other:
        await scheduler.hears(other)
        given = await client.command("slots", worker.name[:-1], slots=3)
        assert [(answer.worker, bytes(answer.data)) for answer in given.answers] == [(worker.name, b'{"done":true}')]
        assert (given.over, given.missing) == (True, [])
        assert [(each.verb, each.slots) for each in worker.ordered] == [(ControlVerb.SLOTS, 3)]
        assert other.ordered == []

        other.obeys = False
        given = await client.command("ping", within=0.5)
        assert ([answer.worker for answer in given.answers], given.missing) == ([worker.name], [other.name])
        assert len(worker.ordered) == 2, "asked about again and again, it was given once"
    with pytest.raises(InvalidFilter, match="no live worker's id begins with 'elsewhere'"):
        await client.command("ping", "elsewhere")
    details = [change.detail async for change in client.changes()]
    assert details[1] == f"slots 3 to 1 worker: {worker.name}"
    assert details[0].startswith("ping to 2 workers: ")


async def test_a_worker_that_is_gone_is_not_waited_for(
    broker: Broker, namespace: str, client: AsyncClient, scheduler: RunningScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidFilter, match="no worker is alive"):
        await client.command("ping")
    # It stays in the directory for the moment.
    monkeypatch.setattr(scheduler.scheduler._directory, "bury_silent", lambda *_: [])
    async with StandInWorker(broker.url, namespace) as worker:
        await scheduler.hears(worker)
    async with asyncio.timeout(10):
        given: CommandAnswers = await client.command("ping", within=30.0)
    assert (given.answers, given.missing, given.over) == ([], [worker.name], True)

"""What an operator changes counts within a second, from the word to its effect, on the real broker and store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from common.administration import ChangeMade
from common.broker import Consumer, Delivery
from common.client.aio import AsyncClient
from common.errors import TaskCancelled
from common.ids import new_nonce
from common.quotas import Scope
from common.tasks import call
from common.topology import Queue, Topology
from common.wire import Assignment, Outcome, decode
from deploy.local import Broker
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold, succeed
from tests.support.waiting import eventually

SCOPES = [(Scope.QUEUE, "default"), (Scope.TASK, "add"), (Scope.KEY, "anna")]
ANNA = call("add", 2, 3).options(key="anna")
AT_ONCE = 1.0
"""Seconds."""


@pytest.fixture
async def client(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.url, namespace=namespace) as connected:
        yield connected


async def takes_effect(change: Awaitable[object], effect: Callable[[], object], what: str) -> None:
    """Make a change, and fail unless its effect is seen within a second from then."""
    began = time.monotonic()
    await change
    await eventually(effect)
    took = time.monotonic() - began
    print(f"{what}: {took * 1000:.0f} ms")
    assert took < AT_ONCE


async def still(worker: StandInWorker, seconds: float) -> None:
    """Fail if a worker is sent anything in this time."""
    seen = len(worker.seen)
    await asyncio.sleep(seconds)
    assert len(worker.seen) == seen


def slow(assignment: Assignment) -> Outcome:
    """A success that is said to have taken long, so that windows stay as small as the slots."""
    outcome = succeed(assignment)
    outcome.run_seconds = 30.0
    return outcome


@asynccontextmanager
async def working(
    broker: Broker, namespace: str, scheduler: RunningScheduler, *, slots: int = 4, pause: float = 0.01
) -> AsyncIterator[StandInWorker]:
    """A worker that ends all that it holds every so many seconds."""

    async def work() -> None:
        while True:
            await worker.finish(slow)
            await asyncio.sleep(pause)

    async with StandInWorker(broker.url, namespace, hold, slots=slots) as worker:
        await scheduler.hears(worker)
        task = asyncio.create_task(work())
        try:
            yield worker
        finally:
            task.cancel()


@pytest.mark.parametrize(("scope", "name"), SCOPES)
async def test_pause_and_resume(
    broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient, scope: Scope, name: str
) -> None:
    async with working(broker, namespace, scheduler) as worker:
        await client.submit_many([ANNA] * 2000)
        await eventually(lambda: len(worker.seen) > 20)
        began = time.monotonic()
        await client.set_quota(scope.value, name, paused=True)
        await asyncio.sleep(began + AT_ONCE - time.monotonic())
        await still(worker, 0.5)
        assert len(worker.seen) < 2000, "some wait"
        seen = len(worker.seen)
        await takes_effect(client.set_quota(scope.value, name, paused=False), lambda: len(worker.seen) > seen, "resume")


@pytest.mark.parametrize(("scope", "name"), SCOPES)
async def test_rate(
    broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient, scope: Scope, name: str
) -> None:
    async with working(broker, namespace, scheduler, slots=50) as worker:
        await client.set_quota(scope.value, name, rate="3/h")
        await client.submit_many([ANNA] * 2000)
        await eventually(lambda: len(worker.seen) == 3)
        await still(worker, 0.3)
        await takes_effect(
            client.set_quota(scope.value, name, rate="40/s"), lambda: len(worker.seen) >= 20, "a higher rate"
        )
        began = time.monotonic()
        await client.set_quota(scope.value, name, rate="3/h")
        await asyncio.sleep(began + AT_ONCE - time.monotonic())
        await still(worker, 0.5)


@pytest.mark.parametrize(("scope", "name"), SCOPES)
async def test_concurrency(
    broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient, scope: Scope, name: str
) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=10) as worker:
        await scheduler.hears(worker)
        await client.set_quota(scope.value, name, concurrency=1)
        await client.submit_many([ANNA] * 100)
        await eventually(lambda: len(worker.holding) == 1)
        await still(worker, 0.3)
        more = client.set_quota(scope.value, name, concurrency=6)
        await takes_effect(more, lambda: len(worker.holding) == 6, "a higher concurrency")
        await client.set_quota(scope.value, name, concurrency=2)
        worker.most = 0
        for _ in range(5):
            await worker.finish(slow)
            await eventually(lambda: len(worker.holding) == 2)
        assert worker.most == 2, "a lower one counts from the answer on"


async def test_weight(broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient) -> None:
    async with StandInWorker(broker.url, namespace, hold, slots=4) as worker:
        await scheduler.hears(worker)
        gold = {each.id for each in await client.options(key="gold").submit_many([call("add", 1)] * 300)}
        await client.options(key="tin").submit_many([call("add", 1)] * 300)

        async def of_the_next(count: int) -> Counter[bool]:
            since = len(worker.seen)
            while len(worker.seen) < since + count:
                await worker.finish(slow)
                await eventually(lambda: len(worker.holding) == 4)
            return Counter(each.id in gold for each in worker.seen[since : since + count])

        await of_the_next(40)
        equal = await of_the_next(40)
        assert abs(equal[True] - 20) <= 2
        began = time.monotonic()
        await client.set_quota("key", "gold", weight=9)
        assert time.monotonic() - began < AT_ONCE
        heavier = await of_the_next(80)
        assert abs(heavier[True] - 72) <= 3, "a weight counts from the answer on"


async def test_ageing(broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient) -> None:
    """Strictly, the low one would wait for ever: there is always something of the highest priority."""
    async with working(broker, namespace, scheduler, slots=1) as worker:
        await client.pause("default")
        low = await client.options(priority=0).submit("add", 1)
        await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"default": 1})
        await asyncio.sleep(0.1)  # older by far more than the steps between the priorities, a millisecond each below
        await client.options(priority=9).submit_many([call("add", 1)] * 3000)
        await client.resume("default")
        await eventually(lambda: len(worker.seen) > 20)
        assert low.id not in {each.id for each in worker.seen}
        await takes_effect(
            client.set_quota("queue", "default", ageing=0.001),
            lambda: low.id in {each.id for each in worker.seen},
            "ageing",
        )
        assert len(worker.seen) < 3000, "some of the urgent ones wait"


async def test_move(broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient) -> None:
    async with working(broker, namespace, scheduler, slots=100) as worker:
        handles = await client.options(queue="nobody").submit_many([call("add", 1)] * 100)
        await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"nobody": 100})
        await takes_effect(
            client.move("default", queue="nobody"),
            lambda: {each.id for each in handles} == {each.id for each in worker.seen},
            "100 tasks moved",
        )


async def test_reprioritise(broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient) -> None:
    async with working(broker, namespace, scheduler, slots=1) as worker:
        handles = await client.submit_many([call("add", 1)] * 3000)
        last = handles[-1].id
        await eventually(lambda: len(worker.seen) > 20)
        await takes_effect(
            client.reprioritise(9, ids=[last]), lambda: last in {each.id for each in worker.seen}, "a priority"
        )
        assert len(worker.seen) < 3000


async def test_purge(broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient) -> None:
    handles = await client.options(queue="nobody").submit_many([call("add", 1)] * 100)
    waiting = [asyncio.ensure_future(each.result(30)) for each in handles]
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"nobody": 100})
    await takes_effect(
        client.purge("nobody"), lambda: all(each.done() for each in waiting), "100 clients told of a purge"
    )
    assert all(isinstance(each.exception(), TaskCancelled) for each in waiting)


async def test_every_change_is_told(
    broker: Broker, namespace: str, scheduler: RunningScheduler, client: AsyncClient
) -> None:
    heard: list[tuple[str, ChangeMade]] = []

    def hear(delivery: Delivery) -> None:
        heard.append((delivery.routing_key, decode(ChangeMade, delivery.body)))

    events = Queue(
        f"{namespace}.client.guest.{new_nonce()}",
        False,
        True,
        {},
        Topology(namespace).event_exchange,
        ("change.#",),
    )
    consumer = Consumer(scheduler.scheduler._connections[0], events, hear, prefetch=0, no_ack=True)
    await consumer.start()
    await eventually(lambda: consumer.consuming)
    await client.options(queue="nobody").submit_many([call("add", 1)] * 3)
    await eventually(lambda: scheduler.scheduler._dispatcher.backlog == {"nobody": 3})
    await client.reprioritise(7, queue="nobody")
    await client.move("elsewhere", queue="nobody")
    await client.purge("elsewhere")
    await client.pause("elsewhere")
    await eventually(lambda: len(heard) == 4)
    await consumer.stop()
    kept = [change async for change in client.changes()]
    assert [each.change for _, each in reversed(heard)] == kept, "what is told is what is kept"
    assert [key for key, _ in heard] == ["change.reprioritise", "change.move", "change.purge", "change.quota"]
    assert {each.change.user for _, each in heard} == {"guest"}

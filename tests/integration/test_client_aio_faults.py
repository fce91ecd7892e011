"""The async client while the broker restarts, cuts it off or runs out of memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from common.client.aio import AsyncClient, AsyncHandle
from common.errors import SubmissionUnknown
from common.tasks import call
from deploy.local import RabbitNode
from tests.support.stand_in import StandIn


@pytest.fixture
def scheduler(private_broker: RabbitNode) -> Iterator[StandIn]:
    with StandIn(private_broker.url(), "faults") as stand_in:
        yield stand_in


@pytest_asyncio.fixture
async def client(private_broker: RabbitNode) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(private_broker.url(), namespace="faults", publish_timeout=60) as client:
        yield client


async def eventually(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until a condition holds, and let the loop run meanwhile."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, "the condition does not come true"
        await asyncio.sleep(0.01)


async def test_results_come_after_the_broker_closed_the_connection(
    private_broker: RabbitNode, scheduler: StandIn, client: AsyncClient
) -> None:
    handles = await client.submit_many(call("never") for _ in range(1500))
    await eventually(lambda: len(scheduler.tasks) == 1500)
    private_broker.close_all_connections()
    for number, handle in enumerate(handles):
        scheduler.give(handle.id, number)

    assert [await handle.result(timeout=15) for handle in handles] == list(range(1500))
    assert max(len(ask.ids) for ask in scheduler.asked) == 1000


async def test_results_that_come_later_are_told_to_the_new_connection(
    private_broker: RabbitNode, scheduler: StandIn, client: AsyncClient
) -> None:
    handle = await client.submit("never")
    await eventually(lambda: bool(scheduler.tasks))
    private_broker.close_all_connections()
    await eventually(lambda: any(handle.id in ask.ids for ask in scheduler.asked))
    scheduler.finish(handle.id, "told")

    assert await handle.result(timeout=4) == "told", "told at once, not asked for after 5 s"


async def test_submits_survive_a_restart_of_the_broker(
    private_broker: RabbitNode, scheduler: StandIn, client: AsyncClient
) -> None:
    results: list[AsyncHandle[int]] = []

    async def submit_on_and_on() -> None:
        while True:
            results.append(await client.submit("add", len(results)))

    submitters = [asyncio.create_task(submit_on_and_on()) for _ in range(20)]
    await eventually(lambda: len(results) > 100)
    await asyncio.to_thread(private_broker.restart)
    before = len(results)
    await eventually(lambda: len(results) > before + 100, timeout=30)
    for submitter in submitters:
        submitter.cancel()
    await asyncio.wait(submitters)

    assert all(submitter.cancelled() for submitter in submitters), "no submit failed"
    assert {type(await handle.result(timeout=20)) for handle in results} == {int}


async def test_no_confirm_under_a_memory_alarm_is_unknown_and_may_be_repeated(
    private_broker: RabbitNode, scheduler: StandIn
) -> None:
    async with AsyncClient(private_broker.url(), namespace="faults", publish_timeout=1.0) as client:
        assert await (await client.submit("add", 1)).result(5) == 1
        private_broker.set_memory_alarm(True)
        with pytest.raises(SubmissionUnknown) as caught:
            await client.submit("add", 1, 2)
        private_broker.set_memory_alarm(False)
        (task_id,) = caught.value.ids
        handle = await client.options(task_id=task_id).submit("add", 1, 2)
        assert await handle.result(10) == 3


async def test_a_frozen_broker_is_given_up_after_its_heartbeats(private_broker: RabbitNode, scheduler: StandIn) -> None:
    settings = {"publish_timeout": 60, "heartbeat": 5}
    async with AsyncClient(private_broker.url(), namespace="faults", **settings) as client:
        handle = await client.submit("never")
        await eventually(lambda: bool(scheduler.tasks))
        private_broker.pause()
        try:
            await eventually(lambda: not client._flow.core.is_connected, timeout=25)
        finally:
            private_broker.resume()
        await eventually(lambda: any(handle.id in ask.ids for ask in scheduler.asked), timeout=20)
        scheduler.finish(handle.id, 1)
        assert await handle.result(timeout=20) == 1


async def test_a_reply_queue_that_is_deleted_is_replaced(
    private_broker: RabbitNode, scheduler: StandIn, client: AsyncClient
) -> None:
    handle = await client.submit("never")
    await eventually(lambda: bool(scheduler.reply_queues))
    (queue,) = scheduler.reply_queues
    private_broker.eval(
        f'{{ok, Q}} = rabbit_amqqueue:lookup({{resource, <<"/">>, queue, <<"{queue}">>}}),'
        ' rabbit_amqqueue:delete(Q, false, false, <<"test">>).'
    )
    await eventually(lambda: any(handle.id in ask.ids for ask in scheduler.asked))
    scheduler.finish(handle.id, 1)

    assert await handle.result(timeout=4) == 1

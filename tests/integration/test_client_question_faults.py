"""What the clients ask while their connection is closed under them: each question is asked again on the next one."""

import asyncio
from collections.abc import Iterator

import pytest

from common.client.aio import AsyncClient
from common.client.sync import Client
from deploy.local import RabbitNode
from tests.support.stand_in import StandIn, eventually


@pytest.fixture
def scheduler(private_broker: RabbitNode) -> Iterator[StandIn]:
    with StandIn(private_broker.url(), "questions") as stand_in:
        yield stand_in


async def test_questions_of_the_async_client_outlive_its_connection(
    private_broker: RabbitNode, scheduler: StandIn
) -> None:
    async with AsyncClient(private_broker.url(), namespace="questions") as client:
        handle, other = await client.submit("never"), await client.submit("never")
        await asyncio.to_thread(eventually, lambda: len(scheduler.tasks) == 2)
        updates = handle.updates(30, interval=0.1)
        first = await anext(updates)
        scheduler.silent = 3

        async def listed() -> int:
            return len([task async for task in client.tasks(timeout=30)])

        async def followed() -> object:
            return await anext(updates)

        cancels, lists = asyncio.create_task(other.cancel(30)), asyncio.create_task(listed())
        follows = asyncio.create_task(followed())
        await asyncio.to_thread(eventually, lambda: scheduler.silent == 0)
        await asyncio.to_thread(private_broker.close_all_connections)
        cancelled, count = await asyncio.gather(cancels, lists)
        scheduler.give(handle.id, None)
        last = await follows

    assert (cancelled, count) == ("cancelled", 2)
    assert [getattr(update, "state", "") for update in (first, last)] == ["queued", "succeeded"]


def test_questions_of_the_sync_client_outlive_its_connection(private_broker: RabbitNode, scheduler: StandIn) -> None:
    with Client(private_broker.url(), namespace="questions") as client:
        handle = client.submit("never")
        eventually(lambda: bool(scheduler.tasks))
        updates = handle.updates(30, interval=0.1)
        assert getattr(next(updates), "state", "") == "queued"
        private_broker.close_all_connections()
        assert client.cancel(state="queued", timeout=30) == {handle.id: "cancelled"}
        private_broker.close_all_connections()
        assert handle.cancel(timeout=30) == "cancelled"
        private_broker.close_all_connections()
        assert [getattr(update, "state", "") for update in updates] == ["cancelled"]

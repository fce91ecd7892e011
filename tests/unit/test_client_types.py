"""What a type checker sees: this file is a test of mypy's run; each `type: ignore` in it must be needed."""

from collections.abc import Awaitable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_type

from common import AsyncClient, AsyncHandle, Call, Client, Handle, call
from common.tasks import Registry, task

registry: Registry = {}


@task(registry=registry)
async def add(x: int, y: int = 0) -> int:
    return x + y


@task(registry=registry)
def join(*words: str, by: str) -> str:
    return by.join(words)


if TYPE_CHECKING:

    def the_sync_client(client: Client) -> None:
        assert_type(client.submit(add, 2, 3), Handle[int])
        assert_type(client.submit(add, x=2).result(timeout=1), int)
        assert_type(client.options(queue="q").submit(join, "a", by=","), Handle[str])
        assert_type(client.submit("add", 2, queue=3), Handle[Any])
        assert_type(client.submit_many(call(add, i) for i in range(3)), list[Handle[int]])
        for handle in client.as_completed(client.submit_many([call(join, by="")])):
            assert_type(handle.result(), str)
        assert_type(client.options(delay=timedelta(hours=1), retry_on=OSError).submit(add, 1), Handle[int])
        client.options(delay="1")  # type: ignore[arg-type]
        client.submit(add, "2")  # type: ignore[call-overload]
        client.submit(join)  # type: ignore[call-overload]
        client.options(slots=3)  # type: ignore[call-arg]

    async def the_async_client(client: AsyncClient) -> None:
        assert_type(await client.submit(add, 2, 3), AsyncHandle[int])
        assert_type(await (await client.options(priority=1).submit(join, by="")).result(), str)
        assert_type(await client.submit_many([call(add, 1)]), list[AsyncHandle[int]])
        async for handle in client.as_completed(await client.submit_many([call(add, 1)])):
            assert_type(await handle.result(), int)
        await client.submit(add, 1, z=3)  # type: ignore[call-arg]

    async def the_functions() -> None:
        assert_type(call(add, 1), Call[int])
        assert_type(call("add", 1), Call[Any])
        assert_type(await add(1), int)
        assert_type(join("a", by=","), str)
        waits: Awaitable[int] = add(1, 2)
        await waits


def test_the_functions_that_are_checked_are_registered() -> None:
    assert set(registry) == {"add", "join"}

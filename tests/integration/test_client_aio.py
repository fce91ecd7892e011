"""The async client against a real broker, with a stand-in for the scheduler."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aio_pika
import pytest
import pytest_asyncio

from common.client.aio import AsyncClient
from common.errors import (
    ClientClosed,
    InvalidTask,
    ResultTimeout,
    SubmissionRefused,
    SubmissionUnknown,
    TaskFailed,
    UnknownTask,
)
from common.ids import new_task_id
from common.options import TaskOptions
from common.tasks import Call, Registry, call, task
from common.topology import Topology
from deploy.local import Broker
from tests.support.stand_in import StandIn, eventually

registry: Registry = {}


@task(registry=registry, queue="math", priority=7)
async def add(x: int, y: int) -> float:
    return x + y


@pytest.fixture
def scheduler(broker: Broker, namespace: str) -> Iterator[StandIn]:
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


@pytest_asyncio.fixture
async def client(broker: Broker, namespace: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.url, namespace=namespace, publish_timeout=10) as client:
        yield client


async def test_a_task_is_submitted_and_its_result_comes_back(
    scheduler: StandIn, client: AsyncClient, namespace: str
) -> None:
    handle = await client.submit("add", 2, 3)

    assert await handle.result(timeout=5) == 5
    assert scheduler.users == {"guest"}
    assert all(str(queue).startswith(f"{namespace}.client.guest.") for queue in scheduler.reply_queues)


async def test_a_failed_task_raises_with_the_remote_error(scheduler: StandIn, client: AsyncClient) -> None:
    with pytest.raises(TaskFailed, match="ValueError: no"):
        await (await client.submit("fail")).result(timeout=5)


async def test_many_tasks_share_messages(scheduler: StandIn, client: AsyncClient) -> None:
    handles = await client.submit_many(call("add", i, i) for i in range(2500))

    assert [await handle.result(timeout=5) for handle in handles] == [2 * i for i in range(2500)]
    assert scheduler.packs == [1000, 1000, 500]


async def test_calls_that_end_with_an_error_say_what_was_submitted_before(
    scheduler: StandIn, client: AsyncClient
) -> None:
    def calls() -> Iterator[Call[int]]:
        for number in range(25_000):
            yield Call("add", (number, 0))
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more") as raised:
        await client.submit_many(calls())
    await asyncio.to_thread(eventually, lambda: len(scheduler.tasks) == 20_000)
    assert raised.value.__notes__[0].startswith("the first 20,000 calls were submitted, as the tasks ")


async def test_concurrent_submits_share_messages(scheduler: StandIn, client: AsyncClient) -> None:
    handles = await asyncio.gather(*(client.submit("add", i) for i in range(1000)))

    assert [await handle.result(timeout=5) for handle in handles] == list(range(1000))
    assert len(scheduler.packs) <= 2
    assert set(scheduler.seen.values()) == {1}


async def test_options_and_a_typed_result(scheduler: StandIn, client: AsyncClient) -> None:
    handle = await client.options(priority=9).submit(add, 2, y=3)
    total = await handle.result(5)

    assert (total, type(total)) == (5.0, float)
    sent = scheduler.tasks[handle.id]
    assert (sent.queue, sent.priority) == ("math", 9)


async def test_what_is_said_about_a_task_travels_with_it(scheduler: StandIn, client: AsyncClient) -> None:
    later = client.options(expires_in=60, key="anna")
    handles = [await later.submit("add", 1), *await later.options(unique=True).submit_many([call("add", 2)])]
    assert [await handle.result(5) for handle in handles] == [1, 2]

    one, other = (scheduler.tasks[handle.id].options for handle in handles)
    assert one == TaskOptions(expires_in=60.0, key="anna")
    assert other is not None
    assert str(other.unique).startswith("add:")


async def test_as_completed_yields_each_handle_when_it_is_done(scheduler: StandIn, client: AsyncClient) -> None:
    slow = await client.submit("never")
    quick = await client.submit_many([call("add", 1), call("fail")])
    results = client.as_completed([slow, *quick], timeout=5)

    assert {(await anext(results)).id, (await anext(results)).id} == {handle.id for handle in quick}
    scheduler.finish(slow.id, "late")
    assert await (await anext(results)).result() == "late"
    assert [handle async for handle in results] == []


async def test_the_end_of_a_wait_leaves_the_task_alone(scheduler: StandIn, client: AsyncClient) -> None:
    handle = await client.submit("never")
    with pytest.raises(ResultTimeout):
        await handle.result(timeout=0.05)
    with pytest.raises(ResultTimeout, match="1 tasks are not finished"):
        _ = [done async for done in client.as_completed([handle], timeout=0.05)]
    waiter = asyncio.create_task(handle.result())
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert waiter.cancelled()
    assert handle._watchers == [], "a wait that is over leaves nothing in the handle"

    scheduler.finish(handle.id, 1)
    assert await handle.result(timeout=5) == 1


async def test_a_cancelled_submit_is_cancelled_at_once(broker: Broker, namespace: str) -> None:
    async with AsyncClient("amqp://127.0.0.1:1/", namespace=namespace) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.submit("add", 1)


async def test_another_client_asks_by_id(
    scheduler: StandIn, client: AsyncClient, broker: Broker, namespace: str
) -> None:
    task_id = (await client.submit("add", 20, 22)).id
    async with AsyncClient(broker.url, namespace=namespace) as other:
        assert await other.handle(task_id).result(timeout=5) == 42
        assert (await other.handle(task_id).status(timeout=5)).state == "succeeded"


async def test_a_task_that_nobody_submitted_is_unknown(scheduler: StandIn, client: AsyncClient) -> None:
    started = time.monotonic()
    one, other = client.handle(new_task_id()), client.handle(new_task_id())
    got = await asyncio.gather(one.result(5), other.status(5), return_exceptions=True)

    assert [type(error) for error in got] == [UnknownTask, UnknownTask]
    assert time.monotonic() - started >= 1.0


async def test_a_thousand_questions_share_messages(scheduler: StandIn, client: AsyncClient) -> None:
    handles = await client.submit_many(call("add", i) for i in range(1000))
    statuses = await asyncio.gather(*(handle.status(5) for handle in handles))

    assert [status.id for status in statuses] == [handle.id for handle in handles]
    assert len(scheduler.asked) <= 2


async def test_a_result_that_was_not_told_is_asked_for(scheduler: StandIn, client: AsyncClient) -> None:
    scheduler.telling = False
    handle = await client.submit("add", 1, 1)

    assert await handle.result(timeout=8) == 2
    assert len(scheduler.asked) == 1


async def test_what_cannot_be_sent_is_refused_before_anything_is(scheduler: StandIn, client: AsyncClient) -> None:
    calls = [call("add", 1)] * 1500
    with pytest.raises(InvalidTask, match=r"call 1500 .* JSON"):
        await client.submit_many([*calls, call("add", object())])

    assert await (await client.submit("add", 7)).result(5) == 7
    assert len(scheduler.tasks) == 1


async def test_without_a_scheduler_the_submission_waits_in_the_queue(
    client: AsyncClient, broker: Broker, namespace: str
) -> None:
    handles = await asyncio.gather(*(client.submit("add", i) for i in range(20)))
    scheduler = StandIn(broker.url, namespace)
    await asyncio.to_thread(scheduler.__enter__)
    try:
        assert [await handle.result(timeout=10) for handle in handles] == list(range(20))
    finally:
        await asyncio.to_thread(scheduler.__exit__)


async def test_a_user_who_may_not_declare_gets_a_clear_error(broker: Broker, namespace: str) -> None:
    if broker.node is None:
        pytest.skip("needs a node that we may administer")
    own = rf"^{namespace}\.client\.poor\."
    broker.node.add_user("poor", "poor", own, rf"^{namespace}\.(submit|request)$|{own}", own)
    async with AsyncClient(broker.node.url("poor", "poor"), namespace=namespace) as client:
        with pytest.raises(SubmissionRefused, match="no scheduler has been started in this namespace"):
            await client.submit("add", 1)


async def test_an_unroutable_submission_is_refused(client: AsyncClient, broker: Broker, namespace: str) -> None:
    async with await aio_pika.connect(broker.url) as connection, connection.channel() as channel:
        await channel.declare_exchange(Topology(namespace).submit_exchange.name, "direct", durable=True)

    with pytest.raises(SubmissionRefused, match="unroutable"):
        await client.submit("add", 1)


async def test_without_a_broker_the_error_names_the_id_and_the_reason(namespace: str) -> None:
    async with AsyncClient("amqp://127.0.0.1:1/", namespace=namespace, publish_timeout=0.5) as client:
        with pytest.raises(SubmissionUnknown) as caught:
            await client.submit_many([call("add", 1), call("add", 2)])

    assert len(caught.value.ids) == 2
    assert "Connect call failed" in str(caught.value)


async def test_closing_ends_every_wait(scheduler: StandIn, broker: Broker, namespace: str) -> None:
    client = AsyncClient(broker.url, namespace=namespace)
    done, never = await client.submit("add", 1), await client.submit("never")
    assert await done.result(5) == 1
    waiter = asyncio.create_task(never.result())
    await asyncio.sleep(0)
    await client.close()

    with pytest.raises(ClientClosed):
        await waiter
    assert [await handle.result() async for handle in client.as_completed([done])] == [1]
    with pytest.raises(ClientClosed):
        await client.submit("add", 1)
    await client.close()


async def test_dropped_handles_leave_nothing(scheduler: StandIn, client: AsyncClient) -> None:
    handles = await client.submit_many(call("never") for _ in range(3000))
    assert len(client._flow.core.waiting) == 3000

    del handles
    assert len(client._flow.core.waiting) == 0


def test_a_client_belongs_to_one_loop(namespace: str, broker: Broker) -> None:
    client = AsyncClient(broker.url, namespace=namespace)

    async def first() -> None:
        await client.submit("add", 1)
        await client.close()

    asyncio.run(first())
    with pytest.raises((RuntimeError, ClientClosed)):
        asyncio.run(client.__aenter__())


def test_the_async_client_does_not_import_pika(scheduler: StandIn, broker: Broker, namespace: str) -> None:
    program = (
        "import asyncio, sys; from common import AsyncClient\n"
        "async def main():\n"
        "    asyncio.get_running_loop().slow_callback_duration = 10\n"
        "    async with AsyncClient(sys.argv[1], namespace=sys.argv[2]) as client:\n"
        "        print(await (await client.submit('add', 1, 2)).result(timeout=10))\n"
        "asyncio.run(main())\n"
        "assert not {'pika', 'prometheus_client', 'sqlalchemy'} & sys.modules.keys()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, broker.url, namespace],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "3", "")
    eventually(lambda: len(scheduler.tasks) == 1)


def test_a_client_that_one_event_loop_left_open_can_be_closed_in_the_next() -> None:
    client = AsyncClient("amqp://127.0.0.1:1")

    async def use() -> None:
        await client.__aenter__()

    asyncio.run(use())
    asyncio.run(client.close())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(use())

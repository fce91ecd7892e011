"""The broker in memory follows RabbitMQ's rules where Warren can tell: each rule that it claims, at its channels."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiormq.exceptions
import pytest
from aiormq import spec

from common.broker.memory import MemoryConnection, forget, memory_broker
from common.broker.publisher import Publisher
from common.errors import BrokerRefused, ConnectionLost, PublishRefused
from common.telemetry import Telemetry

Connect = Callable[[], Awaitable[MemoryConnection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connections of the user `anna` to one broker."""
    name = f"unit-{secrets.token_hex(4)}"
    made: list[MemoryConnection] = []

    async def one() -> MemoryConnection:
        url = f"memory://anna@{name}"
        made.append(MemoryConnection(url, name="test", heartbeat=10, connect_timeout=5.0, telemetry=Telemetry()))
        await made[-1].start()
        await made[-1].ready(5.0)
        return made[-1]

    yield one
    for connection in made:
        await connection.stop()
    forget(name)
    assert memory_broker(name).queues == {}
    forget(name)


@pytest.fixture
async def connection(connect: Connect) -> MemoryConnection:
    return await connect()


async def channel_of(connection: MemoryConnection) -> Any:
    return await connection.open_channel(confirms=True)


async def publish(channel: Any, body: bytes, key: str = "q", exchange: str = "", **properties: Any) -> None:
    about = spec.Basic.Properties(**properties)
    await channel.basic_publish(body, exchange=exchange, routing_key=key, properties=about, mandatory=True)


async def consume(channel: Any, queue: str = "q", **options: Any) -> list[tuple[bytes, int, bool]]:
    """Consume into a list of (body, tag, redelivered)."""
    got: list[tuple[bytes, int, bool]] = []

    async def take(message: Any) -> None:
        got.append((message.body, message.delivery.delivery_tag, message.delivery.redelivered))

    await channel.basic_consume(queue, take, **options)
    await turn()
    return got


async def turn() -> None:
    """What is under way arrives."""
    for _ in range(5):
        await asyncio.sleep(0)


def bodies(got: list[tuple[bytes, int, bool]]) -> list[bytes]:
    return [body for body, _, _ in got]


async def test_what_no_queue_takes_comes_back(connection: MemoryConnection) -> None:
    publisher = Publisher(connection, timeout=5.0, telemetry=Telemetry())
    with pytest.raises(PublishRefused) as raised:
        await publisher.publish("", "nowhere", b"x")
    assert raised.value.unroutable
    await publisher.publish("", "nowhere", b"x", mandatory=False)
    channel: Any = await connection.open_channel()
    properties = spec.Basic.Properties()
    await channel.basic_publish(b"x", routing_key="nowhere", properties=properties, mandatory=True)  # nobody waits


async def test_a_confirmed_message_is_in_its_queue(connection: MemoryConnection) -> None:
    channel = await channel_of(connection)
    await channel.queue_declare("q")
    await publish(channel, b"1")
    assert (await channel.queue_declare("q", passive=True)).message_count == 1


@pytest.mark.parametrize(
    ("kind", "pattern", "key", "matches"),
    [
        ("direct", "a", "a", True),
        ("direct", "a", "b", False),
        ("fanout", "", "anything", True),
        ("topic", "a.*", "a.b", True),
        ("topic", "a.*", "a.b.c", False),
        ("topic", "a.#", "a", True),
        ("topic", "#.c", "a.b.c", True),
        ("topic", "*", "", True),
    ],
)
async def test_exchanges_route(connection: MemoryConnection, kind: str, pattern: str, key: str, matches: bool) -> None:
    channel = await channel_of(connection)
    await channel.exchange_declare(exchange="e", exchange_type=kind, durable=True)
    await channel.queue_declare("q")
    for _ in range(2):  # binding twice is binding once
        await channel.queue_bind("q", "e", pattern)
    if matches:
        await publish(channel, b"1", key, "e")
    else:
        with pytest.raises(aiormq.exceptions.PublishError):
            await publish(channel, b"1", key, "e")
    assert (await channel.queue_declare("q")).message_count == int(matches)


async def test_prefetch_bounds_what_is_unsettled(connection: MemoryConnection) -> None:
    channel = await channel_of(connection)
    await channel.queue_declare("q")
    for number in range(5):
        await publish(channel, b"%d" % number)
    await channel.basic_qos(prefetch_count=2)
    got = await consume(channel)
    assert bodies(got) == [b"0", b"1"]
    await channel.basic_ack(got[0][1])
    await turn()
    assert bodies(got) == [b"0", b"1", b"2"]
    await channel.basic_ack(got[2][1], multiple=True)
    await turn()
    assert bodies(got) == [b"0", b"1", b"2", b"3", b"4"]


async def test_without_acks_prefetch_bounds_nothing(connection: MemoryConnection) -> None:
    channel = await channel_of(connection)
    await channel.queue_declare("q")
    for number in range(5):
        await publish(channel, b"%d" % number)
    await channel.basic_qos(prefetch_count=1)
    assert len(await consume(channel, no_ack=True)) == 5


async def test_consumers_take_turns(connection: MemoryConnection) -> None:
    first, second = await channel_of(connection), await channel_of(connection)
    await first.queue_declare("q")
    got = [await consume(first), await consume(second)]
    for number in range(4):
        await publish(first, b"%d" % number)
    await turn()
    assert [bodies(each) for each in got] == [[b"0", b"2"], [b"1", b"3"]]


async def test_what_is_unsettled_comes_back_in_its_place_and_is_marked(connection: MemoryConnection) -> None:
    channel, other = await channel_of(connection), await channel_of(connection)
    await channel.queue_declare("q")
    for number in range(4):
        await publish(other, b"%d" % number)
    await channel.basic_qos(prefetch_count=3)
    got = await consume(channel)
    await channel.basic_ack(got[1][1])
    assert got[0][2] is False
    await channel.close()
    again = await consume(other)
    assert [(body, marked) for body, _, marked in again] == [
        (b"0", True),
        (b"2", True),
        (b"3", True),  # delivered when the ack had made room for it
    ]


async def test_a_cancelled_consumer_gets_no_more_and_may_settle_what_it_has(connection: MemoryConnection) -> None:
    channel = await channel_of(connection)
    await channel.queue_declare("q")
    got: list[Any] = []

    async def take(message: Any) -> None:
        got.append(message)

    answer = await channel.basic_consume("q", take)
    await publish(channel, b"1")
    await turn()
    await channel.basic_cancel(answer.consumer_tag)
    await publish(channel, b"2")
    await turn()
    assert len(got) == 1
    await channel.basic_ack(got[0].delivery.delivery_tag)
    assert (await channel.queue_declare("q")).message_count == 1


async def test_an_exclusive_queue_is_its_connection_s_and_ends_with_it(connect: Connect) -> None:
    mine, other = await connect(), await connect()
    channel = await channel_of(mine)
    await channel.queue_declare("own", exclusive=True)
    for refused in ("declare", "consume"):
        foreign = await channel_of(other)
        with pytest.raises(aiormq.exceptions.ChannelLockedResource):
            await (foreign.queue_declare("own", exclusive=True) if refused == "declare" else consume(foreign, "own"))
        assert foreign.is_closed
    await publish(await channel_of(other), b"1", "own")  # anyone may send to it
    mine.lose()
    await turn()
    foreign = await channel_of(other)
    with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
        await foreign.queue_declare("own", passive=True)


async def _wrong_ack(channel: Any) -> None:
    await channel.basic_ack(99)


async def _wrong_user(channel: Any) -> None:
    await publish(channel, b"x", user_id="bob")


REFUSED: list[tuple[str, Callable[[Any], Awaitable[Any]], int]] = [
    ("no queue", lambda channel: channel.queue_declare("none", passive=True), 404),
    ("no queue to consume", lambda channel: consume(channel, "none"), 404),
    ("no queue to bind", lambda channel: channel.queue_bind("none", "e", ""), 404),
    ("no exchange to bind", lambda channel: channel.queue_bind("q", "none", ""), 404),
    ("no exchange", lambda channel: publish(channel, b"x", "q", "none"), 404),
    ("another kind", lambda channel: channel.exchange_declare(exchange="e", exchange_type="topic", durable=True), 406),
    ("other arguments", lambda channel: channel.queue_declare("q", arguments={"x-max-length": 1}), 406),
    ("other durability", lambda channel: channel.queue_declare("q", durable=True), 406),
    ("unknown tag", _wrong_ack, 406),
    ("another user", _wrong_user, 406),
]


@pytest.mark.parametrize(("what", "do", "code"), REFUSED, ids=[each[0] for each in REFUSED])
async def test_what_is_refused_closes_the_channel(
    connection: MemoryConnection, what: str, do: Callable[[Any], Awaitable[Any]], code: int
) -> None:
    from common.broker.faults import translated

    channel, other = await channel_of(connection), await channel_of(connection)
    await channel.queue_declare("q")
    await channel.exchange_declare(exchange="e", exchange_type="direct", durable=True)
    await publish(channel, b"1")
    got = await consume(channel)
    assert len(got) == 1
    with pytest.raises(BrokerRefused) as raised, translated(what):
        await do(channel)
    assert raised.value.code == code
    assert channel.is_closed
    with pytest.raises(BrokerRefused), translated("anything"):
        await channel.queue_declare("q")
    assert not other.is_closed
    assert [(body, marked) for body, _, marked in await consume(other)] == [(b"1", True)]


async def test_the_user_of_the_connection_may_be_named(connection: MemoryConnection) -> None:
    channel = await channel_of(connection)
    await channel.queue_declare("q")
    await publish(channel, b"1", user_id="anna")
    assert bodies(await consume(channel)) == [b"1"]


async def test_a_lost_connection_gives_back_everything_and_comes_again(connect: Connect) -> None:
    mine, other = await connect(), await connect()
    came: list[str] = []

    async def connected() -> None:
        came.append("again")

    mine.on_connected(connected)
    first, second, watching = await channel_of(mine), await channel_of(mine), await channel_of(other)
    await first.queue_declare("q")
    got = [await consume(first), await consume(second)]
    for number in range(4):
        await publish(watching, b"%d" % number)
    await turn()
    assert [len(each) for each in got] == [2, 2]
    mine.lose()
    with pytest.raises(ConnectionLost):
        await mine.open_channel()
    await turn()
    assert [len(each) for each in got] == [2, 2]  # nothing goes to a channel that ends as well
    again = await consume(watching)
    assert sorted(bodies(again)) == [b"0", b"1", b"2", b"3"]
    assert all(marked for _, _, marked in again)
    for channel in (first, second):
        assert channel.is_closed
        with pytest.raises(ConnectionError):
            await channel.basic_ack(1)
    async with asyncio.timeout(10):
        while not came:  # noqa: ASYNC110 - the supervisor has no event for this
            await asyncio.sleep(0.01)
    assert not (await channel_of(mine)).is_closed


async def test_a_publish_whose_connection_is_lost_meanwhile_is_unknown(connect: Connect) -> None:
    mine, other = await connect(), await connect()
    channel = await channel_of(mine)
    await channel.queue_declare("q")
    sending = asyncio.ensure_future(publish(channel, b"1"))
    await asyncio.sleep(0)
    mine.lose()
    with pytest.raises(ConnectionError):
        await sending
    assert bodies(await consume(await channel_of(other))) == [b"1"]


async def test_it_is_quiet_when_nobody_has_room_for_what_waits(connection: MemoryConnection) -> None:
    channel = await channel_of(connection)
    await channel.queue_declare("q")
    await channel.basic_qos(prefetch_count=1)
    assert channel.broker.quiet
    await publish(channel, b"1")
    await publish(channel, b"2")
    assert channel.broker.quiet
    got = await consume(channel)
    assert (len(got), channel.broker.quiet) == (1, True)
    await channel.basic_ack(got[0][1])
    assert not channel.broker.quiet
    await turn()
    assert (len(got), channel.broker.quiet) == (2, True)

"""Declaring topology, and asking a queue how it is."""

from __future__ import annotations

from common.broker.connection import Channel, Connection
from common.broker.faults import translated
from common.errors import BrokerRefused
from common.topology import Exchange, Queue


async def declare(connection: Connection, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...]) -> None:
    """Declare exchanges, then queues with their bindings; what exists already with equal arguments is left as it is.

    Raises:
        BrokerRefused: 403 when this user may not; 406 when it exists with other arguments (then delete it, or
            choose another namespace).
        ConnectionLost: the connection ended.
    """
    channel = await connection.open_channel()
    try:
        for exchange in exchanges:
            with translated(f"declare exchange {exchange.name}"):
                await channel.exchange_declare(exchange=exchange.name, exchange_type=exchange.kind, durable=True)
        for queue in queues:
            await declare_queue(channel, queue)
    finally:
        await close(channel)


async def declare_queue(channel: Channel, queue: Queue) -> None:
    """Declare and bind one queue on an open channel. Raises as `declare` does."""
    with translated(f"declare queue {queue.name}"):
        await channel.queue_declare(
            queue=queue.name,
            durable=queue.durable,
            exclusive=queue.exclusive,
            arguments=dict(queue.arguments),
        )
        await _bind(channel, queue)


async def _bind(channel: Channel, queue: Queue) -> None:
    if queue.exchange is not None:
        for key in queue.routing_keys:
            await channel.queue_bind(queue.name, queue.exchange.name, key)


async def restore(connection: Connection, exchanges: tuple[Exchange, ...], queues: tuple[Queue, ...]) -> None:
    """Declare exchanges, and bind queues that are there: with a deleted exchange its bindings are gone too.

    A missing queue is left to its consumer, which a declaration at once could leave deaf (`common.broker.REST`).

    Raises:
        BrokerRefused: 403 when this user may not.
        ConnectionLost: the connection ended.
    """
    if exchanges:
        await declare(connection, exchanges, ())
    for queue in queues:
        channel = await connection.open_channel()
        try:
            with translated(f"bind queue {queue.name}"):
                await _bind(channel, queue)
        except BrokerRefused as error:
            if error.code != 404:
                raise
        finally:
            await close(channel)


async def ready_messages(connection: Connection, queue: Queue) -> int | None:
    """How many messages wait in `queue` undelivered, or None when it does not exist.

    The count of a passive declaration holds only ready messages, not those delivered and unacked
    (AMQP 0-9-1, queue.declare-ok).
    """
    channel = await connection.open_channel()
    try:
        with translated(f"look at queue {queue.name}"):
            answer = await channel.queue_declare(queue=queue.name, passive=True)
        return answer.message_count
    except BrokerRefused as error:
        if error.code == 404:
            return None
        raise
    finally:
        await close(channel)


async def close(channel: Channel) -> None:
    """Close a channel that may be closed already."""
    if not channel.is_closed:
        with translated("close a channel"):
            await channel.close()

"""A broker inside this process, for the tests of Warren's users: no server, no sockets.

`Connection.of` makes a `MemoryConnection` for an address like ``memory://user@name``. Everything above channels is the
code that talks to RabbitMQ: consumers, publishers, confirms, the services. What is here behaves as RabbitMQ does where
Warren can tell (AMQP 0-9-1 and RabbitMQ's extensions): confirms, returns of unroutable messages, prefetch,
redelivery of what a channel leaves unsettled, exclusive queues that end with their connection. Nothing is durable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiormq.abc
import aiormq.exceptions
from aiormq import spec
from pamqp.header import ContentHeader

from common.broker.connection import Channel, Connection
from common.errors import ConnectionLost

SCHEME: Final = "memory"

OnMessage = Callable[[Any], Awaitable[None]]


class Message:
    """One message in a queue."""

    __slots__ = ("body", "properties", "redelivered", "routing_key")

    def __init__(self, body: bytes, properties: spec.Basic.Properties, routing_key: str) -> None:
        self.body = body
        self.properties = properties
        self.routing_key = routing_key
        self.redelivered = False


class MemoryQueue:
    """Messages in order, and who consumes them in turn."""

    def __init__(self, name: str, owner: MemoryConnection | None, kind: object = None) -> None:
        self.name = name
        self.kind = kind
        self.owner = owner
        self.ready: deque[Message] = deque()
        self.consumers: deque[MemoryConsumer] = deque()

    def put(self, message: Message) -> None:
        """Append a message and hand it over if somebody takes it."""
        self.ready.append(message)
        self.flow()

    def put_back(self, messages: list[Message]) -> None:
        """What was delivered and not settled comes back to its place, marked."""
        for message in messages:
            message.redelivered = True
        self.ready.extendleft(reversed(messages))
        self.flow()

    def flow(self) -> None:
        """Hand over what consumers have room for, in turn."""
        idle = 0
        while self.ready and idle < len(self.consumers):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.has_room:
                idle = 0
                consumer.deliver(self.ready.popleft())
            else:
                idle += 1


class MemoryConsumer:
    """One basic.consume."""

    def __init__(self, channel: MemoryChannel, queue: MemoryQueue, callback: OnMessage, *, no_ack: bool) -> None:
        self.channel = channel
        self.queue = queue
        self._callback = callback
        self._no_ack = no_ack

    @property
    def has_room(self) -> bool:
        """Whether the channel's prefetch allows another message."""
        return self._no_ack or not self.channel.prefetch or len(self.channel.unsettled) < self.channel.prefetch

    def deliver(self, message: Message) -> None:
        """Hand it over in the event loop, after the deliveries before it."""
        tag = next(self.channel.tags)
        if not self._no_ack:
            self.channel.unsettled[tag] = (self.queue, message)
        delivered = SimpleNamespace(
            body=message.body,
            header=SimpleNamespace(properties=message.properties),
            delivery=SimpleNamespace(
                delivery_tag=tag, redelivered=message.redelivered, routing_key=message.routing_key
            ),
        )
        self.channel.broker.spawn(self._callback(delivered))


class MemoryBroker:
    """Exchanges, bindings and queues; make one with `memory_broker`."""

    def __init__(self) -> None:
        self.exchanges: dict[str, str] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    def bind(self, exchange: str, key: str, queue: str) -> None:
        """Bind a queue."""
        bindings = self._bindings.setdefault(exchange, [])
        if (key, queue) not in bindings:
            bindings.append((key, queue))

    def routed(self, exchange: str, key: str) -> list[MemoryQueue]:
        """The queues that a message goes to."""
        if not exchange:
            names = {key}
        else:
            kind = self.exchanges[exchange]
            matches = {"fanout": _any, "topic": _topic}.get(kind, str.__eq__)
            names = {queue for pattern, queue in self._bindings.get(exchange, ()) if matches(pattern, key)}
        return [self.queues[name] for name in sorted(names) if name in self.queues]

    def delete(self, queue: MemoryQueue) -> None:
        """Delete a queue with its bindings."""
        self.queues.pop(queue.name, None)
        for exchange, bindings in self._bindings.items():
            self._bindings[exchange] = [(key, name) for key, name in bindings if name != queue.name]

    def spawn(self, callback: Awaitable[None]) -> None:
        """Run a consumer's callback."""
        task = asyncio.ensure_future(callback)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def quiet(self) -> bool:
        """Whether no message is under way: what waits has nobody with room for it."""
        waiting = any(
            queue.ready and any(consumer.has_room for consumer in queue.consumers) for queue in self.queues.values()
        )
        return not (waiting or self._tasks)


def _any(pattern: str, key: str) -> bool:
    return True


def _topic(pattern: str, key: str) -> bool:
    """Whether a topic binding matches: ``*`` is one word, ``#`` any number (AMQP 0-9-1 section 3.1.3.3)."""
    return _words(pattern.split("."), key.split("."))


def _words(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words(pattern[1:], words[1:])


class MemoryChannel:
    """What Warren uses of an aiormq channel."""

    def __init__(self, connection: MemoryConnection, broker: MemoryBroker, *, confirms: bool = False) -> None:
        self._confirms = confirms
        self._error: Exception | None = None
        self.connection = connection
        self.broker = broker
        self.prefetch = 0
        self.tags: Iterator[int] = itertools.count(1)
        self.unsettled: dict[int, tuple[MemoryQueue, Message]] = {}
        self.on_consumer_cancel_callbacks: set[Callable[[Any], Awaitable[None]]] = set()
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._consumers: dict[str, MemoryConsumer] = {}
        self._consumer_tags = itertools.count(1)

    @property
    def is_closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self.closing.done()

    async def close(self) -> None:
        """End the consumers; what is unsettled goes back to its queue."""
        self.end()

    def end(self, error: Exception | None = None) -> None:
        """Close, because of `error` if there is one."""
        if self.is_closed:
            return
        self._error = error
        self.closing.set_result(None) if error is None else self.closing.set_exception(error)
        self.closing.exception()
        self.stop_consuming()
        unsettled, self.unsettled = self.unsettled, {}
        by_queue: dict[MemoryQueue, list[Message]] = {}
        for queue, message in unsettled.values():
            by_queue.setdefault(queue, []).append(message)
        for queue, messages in by_queue.items():
            queue.put_back(messages)
        self.connection.channels.discard(self)

    def stop_consuming(self) -> None:
        """Cancel its consumers."""
        for tag in list(self._consumers):
            self._cancel(tag)

    def _check_open(self) -> None:
        if self.is_closed:
            raise self._error or aiormq.exceptions.ChannelInvalidStateError("the channel is closed")

    def _refuse(self, error: Exception) -> Exception:
        # As a broker does: the channel ends, and the call that was refused says why.
        self.end(error)
        return error

    async def exchange_declare(self, *, exchange: str, exchange_type: str, durable: bool) -> None:
        """exchange.declare."""
        self._check_open()
        if self.broker.exchanges.setdefault(exchange, exchange_type) != exchange_type:
            raise self._refuse(aiormq.exceptions.ChannelPreconditionFailed(f"inequivalent exchange {exchange!r}"))

    async def queue_declare(
        self,
        queue: str,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Any:
        """queue.declare."""
        self._check_open()
        known = self.broker.queues.get(queue)
        if known is None:
            if passive:
                raise self._refuse(aiormq.exceptions.ChannelNotFoundEntity(f"no queue {queue!r}"))
            kind = (durable, exclusive, arguments or {})
            known = self.broker.queues[queue] = MemoryQueue(queue, self.connection if exclusive else None, kind)
        self._check_owner(known)
        if not passive and known.kind != (durable, exclusive, arguments or {}):
            raise self._refuse(
                aiormq.exceptions.ChannelPreconditionFailed(f"inequivalent arguments of queue {queue!r}")
            )
        return SimpleNamespace(queue=queue, message_count=len(known.ready), consumer_count=len(known.consumers))

    def _check_owner(self, queue: MemoryQueue) -> None:
        if queue.owner is not None and queue.owner is not self.connection:
            raise self._refuse(aiormq.exceptions.ChannelLockedResource(f"queue {queue.name!r} is exclusive"))

    async def queue_bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """queue.bind."""
        self._check_open()
        if exchange not in self.broker.exchanges:
            raise self._refuse(aiormq.exceptions.ChannelNotFoundEntity(f"no exchange {exchange!r}"))
        if queue not in self.broker.queues:
            raise self._refuse(aiormq.exceptions.ChannelNotFoundEntity(f"no queue {queue!r}"))
        self._check_owner(self.broker.queues[queue])
        self.broker.bind(exchange, routing_key, queue)

    async def basic_qos(self, *, prefetch_count: int) -> None:
        """basic.qos, for the consumers to come."""
        self._check_open()
        self.prefetch = prefetch_count

    async def basic_consume(self, queue: str, callback: OnMessage, *, no_ack: bool = False) -> Any:
        """basic.consume."""
        self._check_open()
        known = self.broker.queues.get(queue)
        if known is None:
            raise self._refuse(aiormq.exceptions.ChannelNotFoundEntity(f"no queue {queue!r}"))
        self._check_owner(known)
        consumer = MemoryConsumer(self, known, callback, no_ack=no_ack)
        tag = f"ctag{next(self._consumer_tags)}"
        self._consumers[tag] = consumer
        known.consumers.append(consumer)
        # The answer comes before the first delivery.
        asyncio.get_running_loop().call_soon(known.flow)
        return SimpleNamespace(consumer_tag=tag)

    async def basic_cancel(self, tag: str) -> None:
        """basic.cancel."""
        self._check_open()
        self._cancel(tag)

    def _cancel(self, tag: str) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is not None:
            consumer.queue.consumers.remove(consumer)

    async def basic_ack(self, tag: int, *, multiple: bool = False, wait: bool = True) -> None:
        """basic.ack."""
        self._check_open()
        tags = [each for each in self.unsettled if each <= tag] if multiple else [tag]
        if tag not in self.unsettled:
            raise self._refuse(aiormq.exceptions.ChannelPreconditionFailed(f"unknown delivery tag {tag}"))
        settled = [self.unsettled.pop(each)[0] for each in tags]
        for queue in dict.fromkeys(settled):
            queue.flow()

    async def basic_publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str = "",
        properties: spec.Basic.Properties,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        """basic.publish with its confirm."""
        self._check_open()
        if exchange and exchange not in self.broker.exchanges:
            raise self._refuse(aiormq.exceptions.ChannelNotFoundEntity(f"no exchange {exchange!r}"))
        if properties.user_id is not None and properties.user_id != self.connection.user:
            text = f"user_id {properties.user_id!r} is not the connection's user {self.connection.user!r}"
            raise self._refuse(aiormq.exceptions.ChannelPreconditionFailed(text))
        queues = self.broker.routed(exchange, routing_key)
        if not queues and mandatory:
            if self._confirms:
                raise _returned(body, exchange, routing_key, properties)
            return
        for queue in queues:
            queue.put(Message(body, properties, routing_key))
        await asyncio.sleep(0)  # a confirm never comes before the caller has let go
        self._check_open()  # the message is there, and its sender will never know


def _returned(body: bytes, exchange: str, key: str, properties: spec.Basic.Properties) -> Exception:
    """What a mandatory message that no queue takes raises."""
    delivery = spec.Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange=exchange, routing_key=key)
    header = ContentHeader(body_size=len(body), properties=properties)
    message = aiormq.abc.DeliveredMessage(delivery=delivery, header=header, body=body, channel=cast("Any", None))
    return aiormq.exceptions.PublishError(message, spec.Basic.Ack(delivery_tag=1))


class MemoryConnection(Connection):
    """A connection to a `MemoryBroker`, with the same supervisor."""

    channels: set[MemoryChannel]

    async def open_channel(self, *, confirms: bool = False) -> Channel:
        """See `Connection.open_channel`."""
        if not self._open:
            raise ConnectionLost(f"no connection to the broker ({self.name})")
        channel = MemoryChannel(self, self._broker, confirms=confirms)
        self.channels.add(channel)
        return cast("Channel", channel)

    async def _connect(self) -> None:
        self._lost.clear()
        self._broker = memory_broker(urlsplit(self._url).hostname or "warren")
        self.channels = set()
        self._open = True
        self.server_version = "memory"
        for callback in self._callbacks:
            await callback()

    async def _close(self) -> None:
        self._ready.clear()
        self._end()

    def lose(self) -> None:
        """End as if the network had failed; the supervisor connects again."""
        self._end()
        self._lost_reason = "lost on purpose"
        self._lost.set()

    def _end(self) -> None:
        if not getattr(self, "_open", False):
            return
        self._open = False
        error = ConnectionError("the connection ended")
        channels = list(self.channels)
        for channel in channels:
            channel.stop_consuming()  # what one gives back must not go to another one that ends as well
        for channel in channels:
            channel.end(error)
        for queue in [queue for queue in self._broker.queues.values() if queue.owner is self]:
            self._broker.delete(queue)


_BROKERS: dict[str, MemoryBroker] = {}


def memory_broker(name: str) -> MemoryBroker:
    """The broker of this name in this process."""
    return _BROKERS.setdefault(name, MemoryBroker())


def forget(name: str) -> None:
    """Throw the broker of this name away, with all that is in it."""
    _BROKERS.pop(name, None)

"""A channel: the verbs of AMQP that Warren uses, and what it leaves unsettled."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiormq.abc
import aiormq.exceptions
from aiormq import spec
from pamqp.header import ContentHeader

from common.broker.memory.broker import MemoryBroker
from common.broker.memory.queues import MemoryConsumer, MemoryQueue, Message, OnMessage

if TYPE_CHECKING:
    from common.broker.memory.connection import MemoryConnection


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

"""One consumer on one channel, from its start until the broker, the network or we end it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

import aiormq.abc
import aiormq.exceptions
from aiormq import spec

from common.broker.connection import Channel, Connection
from common.broker.declare import close, declare_queue
from common.broker.faults import translated
from common.errors import BrokerError, ConnectionLost
from common.topology import Queue

log = logging.getLogger(__name__)

CANCEL_TIMEOUT: Final = 5.0
"""Seconds that the broker has to answer a basic.cancel."""


class Delivery:
    """One message handed to a consumer.

    Attributes:
        body: the payload.
        tag: the delivery tag, counted from 1 on its channel (AMQP 0-9-1 section 2.2.3).
        redelivered: the broker has handed this message to somebody before.
        type, user_id, reply_to, correlation_id: AMQP properties; None when absent.
        headers: AMQP headers; empty when absent.
        routing_key: the key it was published with.
    """

    __slots__ = (
        "body",
        "correlation_id",
        "headers",
        "redelivered",
        "reply_to",
        "routing_key",
        "subscription",
        "tag",
        "type",
        "user_id",
    )

    def __init__(self, subscription: Subscription, message: aiormq.abc.DeliveredMessage) -> None:
        properties: Any = message.header.properties
        delivery: Any = message.delivery
        self.subscription = subscription
        self.body: bytes = message.body
        self.tag: int = delivery.delivery_tag
        self.redelivered: bool = bool(delivery.redelivered)
        self.routing_key: str = delivery.routing_key or ""
        self.type: str | None = properties.message_type
        self.user_id: str | None = properties.user_id
        self.reply_to: str | None = properties.reply_to
        self.correlation_id: str | None = properties.correlation_id
        self.headers: dict[str, Any] = properties.headers or {}

    async def ack(self) -> bool:
        """Settle this message alone. Returns False when its channel is gone (the broker will deliver it again)."""
        return await self.subscription.ack(self.tag, multiple=False)


class Subscription:
    """A running consumer; make it with `open`.

    After the broker cancels the consumer the channel stays open, so that what it has delivered can still be
    settled; the next consumer needs a new channel, because RabbitMQ 4.3.0-4.3.6 keeps the cancelled tag.
    """

    def __init__(self, channel: Channel, queue: Queue, on_delivery: Callable[[Delivery], None]) -> None:
        self._channel = channel
        self._on_delivery = on_delivery
        self._tag: str | None = None
        self.queue = queue
        self.ended = asyncio.Event()
        """Set when no more deliveries will come: cancelled by us or the broker, channel or connection gone."""
        self.reason = ""
        self.cancelled_by_broker = False
        self.unsettled = 0
        self._closing = False

    @classmethod
    async def open(
        cls,
        connection: Connection,
        queue: Queue,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        no_ack: bool = False,
        declare: bool = False,
    ) -> Subscription:
        """Open a channel and consume `queue` on it.

        Args:
            connection: where.
            queue: what.
            on_delivery: called in the event loop for each message, in order.
            prefetch: unsettled messages that the broker may have handed over at a time; 0 is no limit.
            no_ack: messages count as settled when they are sent.
            declare: declare and bind the queue first.

        Raises:
            BrokerRefused: 404 when the queue does not exist, 403 when this user may not.
            ConnectionLost: no connection.
        """
        channel = await connection.open_channel()
        self = cls(channel, queue, on_delivery)
        try:
            if declare:
                await declare_queue(channel, queue)
            with translated(f"consume {queue.name}"):
                await channel.basic_qos(prefetch_count=prefetch)
                channel.on_consumer_cancel_callbacks.add(self._cancelled_by_broker)
                answer = await channel.basic_consume(
                    queue.name,
                    self._acknowledged if no_ack else self._delivered,
                    no_ack=no_ack,
                )
        except BaseException:
            with suppress(BrokerError):
                await close(channel)
            raise
        self._tag = answer.consumer_tag
        channel.closing.add_done_callback(self._channel_closed)
        return self

    @property
    def alive(self) -> bool:
        """True while messages can still be settled."""
        return not self._channel.is_closed

    async def ack(self, tag: int, *, multiple: bool, count: int = 1) -> bool:
        """Settle `tag`, or with `multiple` every unsettled one up to it.

        Args:
            tag: the delivery tag.
            multiple: settle the earlier ones too.
            count: how many deliveries this settles.

        Returns:
            False when the channel is gone: the broker delivers the messages again, and a later channel must not
            be asked to settle them, since an unknown tag closes it (406).
        """
        if self._channel.is_closed:
            return False
        try:
            with translated(f"ack on {self.queue.name}"):
                await self._channel.basic_ack(tag, multiple=multiple, wait=False)
        except BrokerError as error:
            log.debug("ack came too late", extra={"queue": self.queue.name, "reason": str(error)})
            return False
        self.unsettled -= count
        if self.ended.is_set() and self._closing and self.unsettled <= 0:
            await self.close()
        return True

    async def cancel(self) -> None:
        """Ask the broker for no more deliveries (basic.cancel); what has arrived can still be settled."""
        if self._channel.is_closed or self._tag is None or self.ended.is_set():
            self.ended.set()
            return
        tag, self._tag = self._tag, None
        try:
            with translated(f"cancel the consumer of {self.queue.name}"):
                async with asyncio.timeout(CANCEL_TIMEOUT):
                    await self._channel.basic_cancel(tag)
        except BrokerError as error:
            log.debug("cancel came too late", extra={"queue": self.queue.name, "reason": str(error)})
        self._end("cancelled")

    async def close_when_settled(self) -> None:
        """Close the channel once each delivery is settled; at once when nothing is open."""
        self._closing = True
        if self.unsettled <= 0:
            await self.close()

    async def close(self) -> None:
        """Close the channel; what is unsettled goes back to the queue."""
        self._end("closed")
        try:
            await close(self._channel)
        except BrokerError as error:
            log.debug("closing the channel failed", extra={"queue": self.queue.name, "reason": str(error)})

    async def wait_ended(self) -> None:
        """Wait until no more deliveries will come.

        Raises:
            ConnectionLost: the channel is gone, with what it had delivered.
        """
        await self.ended.wait()
        if self._channel.is_closed:
            raise ConnectionLost(f"the channel of {self.queue.name} ended: {self.reason}")

    async def _delivered(self, message: aiormq.abc.DeliveredMessage) -> None:
        self.unsettled += 1
        self._hand_over(message)

    async def _acknowledged(self, message: aiormq.abc.DeliveredMessage) -> None:
        self._hand_over(message)

    def _hand_over(self, message: aiormq.abc.DeliveredMessage) -> None:
        try:
            self._on_delivery(Delivery(self, message))
        except Exception as error:  # noqa: BLE001 - aiormq would log it and go on
            asyncio.get_running_loop().call_soon(_raise, error)

    async def _cancelled_by_broker(self, frame: spec.Basic.Cancel) -> None:
        self._tag = None
        self.cancelled_by_broker = True
        self._end("cancelled by the broker")

    def _channel_closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._end(str(error or "closed"))

    def _end(self, reason: str) -> None:
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()


def _raise(error: Exception) -> NoReturn:
    """As a callback of the event loop's: there the service hears of it, and ends."""
    raise error

"""Confirmed publishing.

Every publish is mandatory and awaited until the broker's confirm
(https://www.rabbitmq.com/docs/confirms#publisher-confirms). What was published when a channel died, or when no
confirm came in time, is *unknown*: it may be in the queue, or arrive there later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from aiormq import spec

from common.broker.connection import Channel, Connection
from common.broker.faults import translated
from common.errors import BrokerError, BrokerRefused, PublishRefused, PublishUnknown
from common.events import Published, PublishFailed
from common.telemetry import Telemetry
from common.wire import CONTENT_TYPE, Message, encode

PERSISTENT = 2
TRANSIENT = 1


class Publisher:
    """Publishes on a channel of its own, opened on first use and anew after a loss.

    Args:
        connection: the connection; use another one than the consumers', since under a resource alarm the broker
            stops reading from connections that publish (https://www.rabbitmq.com/docs/alarms).
        timeout: seconds to wait for a confirm.
        telemetry: where `Published` and `PublishFailed` go.
    """

    def __init__(self, connection: Connection, *, timeout: float, telemetry: Telemetry) -> None:
        self._connection = connection
        self._timeout = timeout
        self._telemetry = telemetry
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """True when a publish has a connection to go to."""
        return self._connection.connected

    async def ready(self, timeout: float | None = None) -> None:
        """Wait for the connection; see `Connection.ready`."""
        await self._connection.ready(timeout)

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message | bytes,
        *,
        type: str | None = None,  # noqa: A002
        persistent: bool = True,
        mandatory: bool = True,
        reply_to: str | None = None,
        correlation_id: str | None = None,
        priority: int | None = None,
        user_id: str | None = None,
        headers: Mapping[str, str | int] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Publish and wait for the confirm.

        Args:
            exchange: the exchange's name; an empty string is the default exchange.
            routing_key: the routing key.
            message: a wire message, encoded here, or bytes.
            type: the AMQP type; by default that of the wire message.
            persistent: the broker writes it to disk before it confirms.
            mandatory: an unroutable message raises instead of vanishing.
            timeout: seconds, when other than the publisher's own.

        Raises:
            PublishRefused: nacked or unroutable: it is in no queue.
            PublishUnknown: no confirm in time: it may be in the queue.
            BrokerRefused: the broker closed the channel, perhaps because of another message on it; unknown.
            ConnectionLost: no connection, or it ended before the confirm; unknown.
        """
        body = message if isinstance(message, bytes) else encode(message)
        if type is None and not isinstance(message, bytes):
            type = message.TYPE  # noqa: A001
        properties = spec.Basic.Properties(
            content_type=CONTENT_TYPE,
            delivery_mode=PERSISTENT if persistent else TRANSIENT,
            message_type=type,
            reply_to=reply_to,
            correlation_id=correlation_id,
            priority=priority,
            user_id=user_id,
            headers=dict(headers) if headers else None,
        )
        started = time.perf_counter()
        try:
            with translated(f"publish to {exchange or routing_key}"):
                channel = self._channel
                if channel is None or channel.is_closed:
                    channel = await self._open()
                await channel.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties,
                    mandatory=mandatory,
                    timeout=self._timeout if timeout is None else timeout,
                )
        except BrokerError as error:
            self._telemetry.emit(PublishFailed(self._connection.label, _reason(error)))
            raise
        self._telemetry.emit(Published(self._connection.label, time.perf_counter() - started, len(body)))

    async def _open(self) -> Channel:
        async with self._opening:
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = self._channel = await self._connection.open_channel(confirms=True)
            return channel


def _reason(error: BrokerError) -> str:
    if isinstance(error, PublishRefused):
        return "unroutable" if error.unroutable else "refused"
    if isinstance(error, PublishUnknown):
        return "timeout"
    return "refused" if isinstance(error, BrokerRefused) else "lost"

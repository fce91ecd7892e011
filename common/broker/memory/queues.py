"""Queues: messages in order, and who takes them in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiormq import spec

if TYPE_CHECKING:
    from common.broker.memory.channel import MemoryChannel
    from common.broker.memory.connection import MemoryConnection

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

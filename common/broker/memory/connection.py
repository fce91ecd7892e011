"""A connection: it has channels and owns exclusive queues, and all of them end with it."""

from __future__ import annotations

from typing import cast
from urllib.parse import urlsplit

from common.broker.connection import Channel, Connection
from common.broker.memory.broker import memory_broker
from common.broker.memory.channel import MemoryChannel
from common.errors import ConnectionLost


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

"""Gate: what has to be true on the broker while the parts work: the lock is ours, the topology is there.

One SQLite database has one scheduler. Its lock is an exclusive queue: a second scheduler is refused it with 405
(AMQP 0-9-1, queue.declare), and the broker gives it up with the connection of the first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from common.background import Background, Report
from common.broker import Connection, declare, restore
from common.errors import BrokerError, BrokerRefused, SettingsError
from common.topology import Topology

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds to wait for the lock at the start: the broker may not know yet that the scheduler before us is dead."""


LOOK = 5.0
"""Seconds between two looks: an exchange can be deleted under everybody, and nobody else declares it again."""


class Gate:
    """Prepares the broker each time the consuming connection comes up.

    Args:
        connection: the consuming connection.
        topology: the names.
        restored: awaited after each look: queues of others may have to be bound again.
        report: told when the loop dies.
        look: seconds between two looks at the topology.
    """

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        *,
        restored: Callable[[], Awaitable[None]],
        report: Report,
        look: float = LOOK,
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._restored = restored
        self._loop = Background("topology", self._look_after, report)
        self._look = look
        self._refused = ""
        connection.on_connected(self._prepare)

    async def start(self) -> None:
        """Wait until the broker is there and the lock is ours.

        Raises:
            SettingsError: another scheduler has the lock, or the topology exists with other arguments.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._connection.connected:
            if self._refused and time.monotonic() > deadline:
                raise SettingsError([self._refused])
            ready = asyncio.create_task(self._connection.ready())
            await asyncio.wait([ready], timeout=1.0)
            ready.cancel()
        self._loop.start()

    async def drain(self) -> None:
        """Nothing: the lock is kept until the connection closes."""

    async def stop(self) -> None:
        """Look no more; the lock goes with the connection."""
        await self._loop.stop()

    async def _look_after(self) -> None:
        """Put back exchanges and bindings that somebody has deleted."""
        topology = self._topology
        while True:
            await asyncio.sleep(self._look)
            try:
                await restore(self._connection, topology.exchanges(), topology.durable_queues())
                await self._restored()
            except BrokerError as error:
                log.debug("the topology was not looked at", extra={"reason": str(error)})

    async def _prepare(self) -> None:
        topology = self._topology
        try:
            await declare(self._connection, (), (topology.lock,))
            await declare(self._connection, topology.exchanges(), topology.durable_queues())
        except BrokerRefused as error:
            if not self._refused:
                self._refused = self._explain(error)
                log.error("the scheduler waits", extra={"reason": self._refused, "patience_seconds": PATIENCE})
            raise
        self._refused = ""

    def _explain(self, error: BrokerRefused) -> str:
        namespace = self._topology.namespace
        if error.code == 405:
            return (
                f"namespace {namespace!r}: another scheduler is running in it ({self._topology.lock.name} is locked); "
                "stop that one, or set WARREN_NAMESPACE"
            )
        if error.code == 406:
            return (
                f"namespace {namespace!r}: a queue or exchange exists with other arguments ({error}); delete it when "
                "it is empty, or set WARREN_NAMESPACE"
            )
        return f"namespace {namespace!r}: the broker refused the topology: {error}"

"""Undertaker: reads the dead queue. It is transit only: what comes here is parked, or its leases are judged.

A dead letter from a work queue (deleted queue, delivery limit) means that the bundle came back, never that its tasks
failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from common.broker import BatchConsumer, Connection, Delivery
from common.errors import WireError
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Bundle, check_type, decode
from scheduler_service.parking import Parking
from scheduler_service.reception import parked_message
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store

PREFETCH = 32


class Undertaker:
    """The consumer of the dead queue.

    Args:
        connection: the consuming connection.
        topology: the names.
        store: where messages are parked.
        suspect: given the leases of bundles, to be judged.
        telemetry: where `Parked` goes.
    """

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        store: Store,
        *,
        suspect: Callable[[Iterable[str]], None],
        telemetry: Telemetry,
    ) -> None:
        self._suspect = suspect
        self._parking = Parking("dead", store, telemetry)
        self.consumer = BatchConsumer(connection, topology.dead, self._handle, prefetch=PREFETCH)

    async def start(self) -> None:
        """Start consuming."""
        await self.consumer.start()

    async def drain(self) -> None:
        """Take no more, and finish what has arrived."""
        await self.consumer.drain()

    async def stop(self) -> None:
        """Stop at once."""
        await self.consumer.stop()

    async def _handle(self, deliveries: list[Delivery]) -> None:
        refused: list[ParkedMessage] = []
        leases: list[str] = []
        for delivery in deliveries:
            try:
                check_type(Bundle, delivery.type)
                leases += [assignment.lease for assignment in decode(Bundle, delivery.body).tasks]
            except WireError as error:
                detail = str(delivery.headers.get("reason") or error)
                refused.append(parked_message("dead", delivery, "undecodable", detail))
        await self._parking.park(refused)
        self._suspect(leases)

"""Parking: keeps messages that are not taken, with their reasons, and counts them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from common.broker import Delivery
from common.telemetry import Telemetry
from scheduler_service import operations
from scheduler_service.events import Parked
from scheduler_service.reception import parked_message
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store

INTERNAL = "internal"
"""The reason of what meets a fault of the scheduler's own, each time."""


class Parking:
    """What parks the refused messages of one queue.

    Args:
        origin: the queue, as metrics and `warren dead` name it.
        store: where they are kept.
        telemetry: where `Parked` goes.
    """

    def __init__(self, origin: str, store: Store, telemetry: Telemetry) -> None:
        self._origin = origin
        self._store = store
        self._telemetry = telemetry

    async def park(self, messages: Sequence[ParkedMessage]) -> None:
        """Keep them.

        Raises:
            StoreUnavailable: nothing was written; try again.
        """
        if not messages:
            return
        await self._store.run(operations.park, messages, time.time())
        for reason, count in Counter(message.reason for message in messages).items():
            self._telemetry.emit(Parked(self._origin, reason, count))

    async def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Keep a message that our own code cannot handle.

        Raises:
            StoreUnavailable: nothing was written; try again.
        """
        detail = f"a fault of the scheduler, see its log: {type(error).__name__}: {error}"
        await self.park([parked_message(self._origin, delivery, INTERNAL, detail)])

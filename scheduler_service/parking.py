"""Parking: keeps messages that are not taken, with their reasons, and counts them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from common.telemetry import Telemetry
from scheduler_service import operations
from scheduler_service.events import Parked
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store


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

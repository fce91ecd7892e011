"""Janitor: forgets finished tasks, with their results, and parked messages when their time is over.

The table is walked in store order, from the oldest task to the first that is too young to be over; so the hot path
has no index to keep for it. Tasks that say themselves for how long they are kept have a small one of their own. Batches
are small, and between two of them the store belongs to others for several times as long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from common.background import Background, Report
from common.clocks import wall
from common.errors import StoreError
from common.failpoints import reached
from common.telemetry import Telemetry
from scheduler_service import events, operations
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""Rows: six milliseconds. Of smaller ones, each of which waits its turn, too few pass under load to keep up with it."""
SHARE: Final = 4
"""The rest after a batch, as a multiple of the time that it took."""
OFTEN: Final = 1.0
"""Seconds between two looks at the tasks with a time of their own."""
SELDOM: Final = 60.0
"""Seconds between two walks, at most."""


class Janitor:
    """Forgets what is old.

    Args:
        store: where tasks are.
        ttl: seconds for which a task is kept after its end when it does not say, and a parked message.
        telemetry: where `Pruned` goes.
        report: told when the loop dies.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        ttl: float,
        *,
        telemetry: Telemetry,
        report: Report,
        clock: Callable[[], float] = wall,
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._telemetry = telemetry
        self._clock = clock
        self._walked_at = time.monotonic()
        self._loop = Background("janitor", self._run, report)

    async def start(self) -> None:
        """Start the loop."""
        self._loop.start()

    async def drain(self) -> None:
        """Forget no more."""
        await self._loop.stop()

    async def stop(self) -> None:
        """Forget no more."""
        await self._loop.stop()

    async def _run(self) -> None:
        seldom = min(SELDOM, max(OFTEN, self._ttl / 2))
        while True:
            await asyncio.sleep(OFTEN)
            try:
                await self._sweep_own()
                if time.monotonic() - self._walked_at >= seldom:
                    await self._walk()
                    self._walked_at = time.monotonic()
            except StoreError as error:
                log.debug("the janitor waits for the store", extra={"reason": str(error)})

    async def _sweep_own(self) -> None:
        while True:
            began = time.monotonic()
            await reached("janitor.before_commit")
            count = await self._store.run(operations.prune_own, BATCH, self._clock())
            await reached("janitor.after_commit")
            if count:
                self._telemetry.emit(events.Pruned(count, 0))
            if count < BATCH:
                return
            await asyncio.sleep(SHARE * (time.monotonic() - began))

    async def _walk(self) -> None:
        after: int | None = 0
        while after is not None:
            began = time.monotonic()
            await reached("janitor.before_commit")
            pruned = await self._store.run(operations.prune, after, self._ttl, BATCH, self._clock())
            await reached("janitor.after_commit")
            if pruned.tasks or pruned.parked:
                self._telemetry.emit(events.Pruned(pruned.tasks, pruned.parked))
            after = pruned.next
            await asyncio.sleep(SHARE * (time.monotonic() - began))

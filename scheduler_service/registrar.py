"""Registrar: keeps in the store which task functions workers have ever named.

A task whose function some worker has named waits while none of those workers is there, because a pool may have been
scaled to zero. One that nobody ever named is sent to a worker all the same, and fails when its grace time is over.
Which of the two it is must not depend on whether the scheduler was restarted in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from common.background import Background, Report
from common.backoff import reconnect_wait
from common.clocks import wall
from common.errors import StoreError
from scheduler_service import operations
from scheduler_service.fleet.directory import Directory
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

REMEMBERED: Final = 30 * 86_400.0
"""Seconds for which a task function is known that no worker names any more; then a start forgets it."""
AGAIN: Final = 3600.0
"""Seconds between two times that what live workers name is written down."""
LONGEST_RETRY: Final = 5.0
"""Seconds between two tries at most."""


class Registrar:
    """Reads what is known at the start, and writes down what is new.

    Args:
        store: where it is kept.
        directory: hears what workers name.
        report: told when the loop dies.
        clock: seconds since the epoch.
    """

    def __init__(
        self, store: Store, directory: Directory, *, report: Report, clock: Callable[[], float] = wall
    ) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock
        self._new: set[str] = set()
        self._wake = asyncio.Event()
        self._loop = Background("registrar", self._run, report)

    async def start(self) -> None:
        """Read what is known, then start the loop."""
        known = await self._store.run(operations.known_functions, self._clock() - REMEMBERED)
        self._directory.remember(known)
        self._loop.start()

    async def drain(self) -> None:
        """Go on: workers beat until the end."""

    async def stop(self) -> None:
        """Write no more."""
        await self._loop.stop()

    def heard(self) -> None:
        """Beats have come."""
        if fresh := self._directory.take_fresh():
            self._new |= fresh
            self._wake.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(AGAIN):
                    await self._wake.wait()
            except TimeoutError:
                self._new |= self._directory.named()
            self._wake.clear()
            new, self._new = self._new, set()
            try:
                await self._store.run(operations.hear_functions, new, self._clock())
                failures = 0
            except StoreError as error:
                log.debug("the registrar waits for the store", extra={"reason": str(error)})
                self._new |= new
                await asyncio.sleep(min(LONGEST_RETRY, reconnect_wait(failures)))
                failures += 1
                self._wake.set()

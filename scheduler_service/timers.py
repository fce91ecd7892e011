"""Timers: queues scheduled tasks when they are due."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from common.background import Background, Report
from common.errors import StoreError
from common.states import Rules
from scheduler_service import operations
from scheduler_service.storage import tasks
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

BATCH: Final = 1000
LONGEST_SLEEP: Final = 60.0
"""Seconds after which the clock is looked at again: it may have been set."""


class Timers:
    """Wakes when the next scheduled task is due.

    Args:
        store: where tasks are.
        rules: the limits of the transition function.
        queued: told how many tasks of which queue were queued.
        doubt: called when a transaction may or may not have been committed.
        report: told when the loop dies.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        *,
        queued: Callable[[str, int], None],
        doubt: Callable[[], None],
        report: Report,
    ) -> None:
        self._store = store
        self._rules = rules
        self._queued = queued
        self._doubt = doubt
        self._wake = asyncio.Event()
        self._loop = Background("timers", self._run, report)

    async def start(self) -> None:
        """Start the loop."""
        self._loop.start()

    async def drain(self) -> None:
        """Queue no more."""
        await self._loop.stop()

    async def stop(self) -> None:
        """Queue no more."""
        await self._loop.stop()

    def scheduled(self) -> None:
        """A task was scheduled; it may be due before the others."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            wait = 1.0
            try:
                ripe = await self._store.run(operations.ripen, self._rules, BATCH, time.time())
                for queue, count in Counter(stored.queue for stored in ripe).items():
                    self._queued(queue, count)
                if len(ripe) == BATCH:
                    continue
                due = await self._store.run(tasks.next_due)
                wait = LONGEST_SLEEP if due is None else min(LONGEST_SLEEP, max(0.0, due - time.time()))
            except StoreError as error:
                log.warning("timers wait for the store", extra={"reason": str(error)})
                self._doubt()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

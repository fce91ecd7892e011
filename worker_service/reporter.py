"""Progress of running tasks, on its way to the schedulers.

A task function may report at any rate, in any thread; what is sent is the newest word of each task, all of them in one
message, at most once in `EVERY` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from common.broker import Publisher
from common.errors import BrokerError
from common.questions import Progress, ProgressReport
from common.wire import MAX_PACK_ITEMS
from worker_service.runtimes import Done

EVERY: Final = 0.5
"""Seconds between two messages: no task is reported more often than twice a second, but for its last word."""
_TIMEOUT: Final = 2.0

_log = logging.getLogger(__name__)


class Reporter:
    """Sends progress.

    Args:
        worker: this worker's id.
        publisher: with a channel of its own.
        exchange: the beat exchange's name.
    """

    def __init__(self, worker: str, publisher: Publisher, exchange: str) -> None:
        self._worker = worker
        self._publisher = publisher
        self._exchange = exchange
        self._latest: dict[str, Progress] = {}
        self._woken = False
        self._closed = False
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Be ready."""
        self._loop = asyncio.get_running_loop()

    async def drain(self) -> None:
        """Nothing: what runs goes on reporting."""

    async def stop(self) -> None:
        """Send nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        if sending:
            await asyncio.wait(sending)

    def progress(self, lease: str, progress: Progress) -> None:
        """Send it soon, unless a newer word comes before. May be called in any thread."""
        self._latest[lease] = progress
        if not self._woken and not self._closed and self._loop is not None:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._schedule)
            except RuntimeError:
                self._closed = True  # the loop is closed: this comes after the end

    def ended(self, done: Sequence[Done]) -> None:
        """The last word of a task that ends goes before its outcome, after which nobody asks for it."""
        if self._latest and any(attempt.assignment.lease in self._latest for attempt, _ in done):
            self._send()

    def _schedule(self) -> None:
        if self._timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._due), self._send)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._woken = False
        loop = asyncio.get_running_loop()
        self._due = loop.time() + EVERY
        if not self._latest or self._closed:
            return
        # Taken one by one: another thread may be adding to the same dictionary.
        latest = {lease: self._latest.pop(lease) for lease in list(self._latest)}
        leases = list(latest)
        for first in range(0, len(leases), MAX_PACK_ITEMS):
            some = {lease: latest[lease] for lease in leases[first : first + MAX_PACK_ITEMS]}
            task = loop.create_task(self._publish(ProgressReport(self._worker, some)), name="progress")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _publish(self, report: ProgressReport) -> None:
        try:
            await self._publisher.publish(
                self._exchange, "progress", report, persistent=False, mandatory=False, timeout=_TIMEOUT
            )
        except BrokerError as error:
            _log.debug("progress was not confirmed", extra={"reason": str(error)})

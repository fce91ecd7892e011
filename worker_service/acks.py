"""Acks, a few at a time.

An ack in a quorum queue is a write to the broker's log, as a publish is, and the two share its flush to disk. Sent at
once, the ack of one task would be in the way of the next message that somebody waits for (measured: 0.5 ms of 5 ms of a
round trip on a slow disk). So acks wait for others for a moment, but never so many that the broker, which counts them
against the prefetch, would hold back work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from common import failpoints
from worker_service.attempts import DeliveredBundle

DELAY: Final = 0.004
"""Seconds that an ack waits for others."""


class Acks:
    """Settles bundles of which everything is answered.

    Args:
        most: how many may wait; this many are acked at once.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._waiting: list[DeliveredBundle] = []
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None

    async def add(self, bundles: Iterable[DeliveredBundle]) -> None:
        """Ack `bundles` soon."""
        self._waiting += bundles
        if len(self._waiting) >= self._most:
            await self.flush()
        elif self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._flush_late)

    async def flush(self) -> None:
        """Ack what waits now."""
        self._cancel_timer()
        waiting, self._waiting = self._waiting, []
        for bundle in waiting:
            await bundle.delivery.ack()
        if waiting and failpoints.armed():
            await until_written()
            await failpoints.reached("worker.after_ack")

    async def stop(self) -> None:
        """Ack nothing more: the broker delivers it again."""
        self._cancel_timer()
        self._waiting.clear()
        if self._late is not None:
            self._late.cancel()
            await asyncio.wait((self._late,))

    def _flush_late(self) -> None:
        self._timer = None
        self._late = asyncio.get_running_loop().create_task(self.flush(), name="acks")

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def until_written() -> None:
    """For the failpoints: let aio-pika write its frames.

    That takes some rounds of the event loop, and much less time than the broker's answer.
    """
    for _ in range(10):
        await asyncio.sleep(0)

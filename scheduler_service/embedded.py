"""The scheduler inside somebody else's process, for `common.testing`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from common.background import Report
from common.lifecycle import EXIT_OK
from common.tasks import TaskFunction
from scheduler_service import events
from scheduler_service.app import Scheduler
from scheduler_service.settings import SchedulerSettings


class EmbeddedScheduler:
    """See `common.testing.harness.Embedded`.

    Args:
        settings: of the scheduler.
        folder: for its database.
        tasks: not needed here.
        wakes: not needed here.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: str,
        tasks: Mapping[str, TaskFunction[..., Any]],
        wakes: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        database = {"database_url": f"sqlite:///{folder}/warren.db"}
        self._scheduler = Scheduler(SchedulerSettings(**(database | dict(settings))))
        self._moved = 0
        self._run: asyncio.Task[int] | None = None
        telemetry = self._scheduler.telemetry
        for kind in (events.Submitted, events.Dispatched, events.Replied, events.Returned, events.Told):
            telemetry.on(kind, self._count)

    def _count(self, event: object) -> None:
        self._moved += 1

    def activity(self) -> int:
        """How often tasks have moved."""
        return self._moved

    def busy(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._scheduler.store.pending)

    def next_due(self) -> float | None:
        """When the next waiting task is due or over, seconds since the epoch."""
        return self._scheduler.timers.next_moment

    def running(self) -> list[str]:
        """Nothing: task functions run in the worker."""
        return []

    async def round(self) -> None:
        """Nothing: everything but the store is in the main loop."""

    async def start(self, ended: Report) -> None:
        """Start, and return when it works.

        Args:
            ended: told when it is about to end by itself.

        Raises:
            Exception: whatever keeps it from starting.
        """
        self._run = await self._scheduler.service.begin(ended)

    async def stop(self) -> int:
        """Drain and stop; its exit code."""
        self._scheduler.service.drain()
        return EXIT_OK if self._run is None else await self._run

"""The worker inside somebody else's process, for `common.testing`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from common.background import Report
from common.lifecycle import EXIT_OK
from common.tasks import TaskFunction
from common.testing.clock import ClockLoop
from worker_service import events
from worker_service.app import Worker
from worker_service.handlers import Handler
from worker_service.settings import WorkerSettings


class EmbeddedWorker:
    """See `common.testing.harness.Embedded`.

    Args:
        settings: of the worker.
        folder: not needed here.
        tasks: the task functions.
        wakes: told of the event loop that the clock has to wake.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: str,
        tasks: Mapping[str, TaskFunction[..., Any]],
        wakes: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        self._loop = ClockLoop()
        wakes(self._loop)
        # A test has one worker, which runs whatever it is given.
        labels = sorted({label for task in tasks.values() for label in task.requires})
        named = {"modules": ("in.this.process",), "labels": tuple(labels)}
        self._worker = Worker(
            WorkerSettings(**(named | dict(settings))),
            {name: Handler(task) for name, task in tasks.items()},
            new_loop=lambda: self._loop,
            apart=False,
        )
        self._moved = 0
        self._run: asyncio.Task[int] | None = None
        for kind in (events.Started, events.Completed, events.Returned, events.Replied):
            self._worker.telemetry.on(kind, self._count)

    def _count(self, event: object) -> None:
        self._moved += 1

    def activity(self) -> int:
        """How often attempts have moved."""
        return self._moved

    def busy(self) -> bool:
        """Whether a plain function runs, or an outcome is on its way."""
        running = self._worker.executor.running_attempts()
        return bool(self._worker.replier.unanswered) or any(not each.handler.is_coroutine for each in running)

    def next_due(self) -> float | None:
        """When a running task function goes on or is over, seconds since the epoch."""
        seconds = [self._loop.next_timer(), self._worker.executor.next_deadline()]
        wanted = [each for each in seconds if each is not None]
        return time.time() + min(wanted) if wanted else None

    def running(self) -> list[str]:
        """The task functions that run now, each with the id of its task."""
        return [
            f"{each.assignment.task} (task {each.assignment.id}, attempt {each.assignment.attempt})"
            for each in self._worker.executor.running_attempts()
        ]

    async def round(self) -> None:
        """Come round once through the loop of the coroutine functions."""
        if not self._loop.is_closed():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop))

    async def start(self, ended: Report) -> None:
        """Start, and return when it works.

        Args:
            ended: told when it is about to end by itself.

        Raises:
            Exception: whatever keeps it from starting.
        """
        self._run = await self._worker.service.begin(ended)

    async def stop(self) -> int:
        """Drain and stop; its exit code."""
        self._worker.service.drain()
        return EXIT_OK if self._run is None else await self._run

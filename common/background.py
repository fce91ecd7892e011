"""Background tasks that cannot die unheard.

A bare `asyncio.create_task` loses its exception until the garbage collector finds it, and a loop that ends by a
`CancelledError` that nobody sent (aio-pika raises it when a frozen broker's connection is closed) ends without a trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

Report = Callable[[str, BaseException], None]
"""Told the name of a background task and what it died of; `common.lifecycle.Service.report` ends the service."""

_log = logging.getLogger(__name__)


class StrayCancellation(RuntimeError):
    """A background task ended by a cancellation that did not come from its `stop`."""


class Background:
    """One coroutine that runs in a task of its own until it returns or is stopped.

    Args:
        name: of the task, for logs.
        work: makes the coroutine; called by each `start`.
        report: told once when the coroutine raises. None only logs it.
    """

    def __init__(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], report: Report | None = None) -> None:
        self.name = name
        self._work = work
        self._report = report or _log_crash
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the coroutine in the running loop. Nothing happens when it is running."""
        if self.running:
            return
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._work(), name=self.name)
        self._task.add_done_callback(self._done)

    async def wait(self) -> None:
        """Wait until the coroutine has ended by itself. Its exception goes to `report`, not to the caller."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def stop(self) -> None:
        """Cancel the coroutine and wait until it has ended. Nothing happens when it is not running."""
        task = self._task
        if task is None or task.done():
            return
        self._stopping = True
        task.cancel()
        await asyncio.wait((task,))

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if not self._stopping and not task.cancelling():
                self._report(self.name, StrayCancellation(f"{self.name} was cancelled by nobody"))
        elif (error := task.exception()) is not None:
            self._report(self.name, error)


class Periodic(Background):
    """A `Background` that awaits `work` again and again, with `interval` seconds between two runs.

    Args:
        name: of the task, for logs.
        interval: seconds from the end of one run to the start of the next; the first run is at once.
        work: one run. When it raises, there are no more runs.
        report: told once when `work` raises. None only logs it.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        work: Callable[[], Coroutine[Any, Any, None]],
        report: Report | None = None,
    ) -> None:
        async def repeat() -> None:
            while True:
                await work()
                await asyncio.sleep(interval)

        super().__init__(name, repeat, report)


def _log_crash(name: str, error: BaseException) -> None:
    _log.error("a background task crashed", extra={"task_name": name}, exc_info=error)

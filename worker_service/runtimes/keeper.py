"""Keeps a zygote alive: it is started again when it has died, after a pause when it keeps dying.

A task may kill its zygote, the parent of its process. Once is an accident that costs nothing but the start; a task
function that does it again and again would have the worker do nothing but import modules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from common.backoff import reconnect_wait
from worker_service.runtimes.forker import Forker

STABLE: Final = 10.0
"""Seconds that a zygote has to live for its death not to count as one more in a row."""
LONGEST: Final = 2.0
"""Seconds of a pause at most."""

_log = logging.getLogger(__name__)


class Keeper:
    """One zygote at a time.

    Args:
        start: starts one.
        purpose: what it is for, in the log.
    """

    def __init__(self, start: Callable[[], Awaitable[Forker]], purpose: str) -> None:
        self._start = start
        self._purpose = purpose
        self._forker: Forker | None = None
        self._starting = asyncio.Lock()
        self._started_at = 0.0
        self._deaths = 0

    async def alive(self) -> Forker:
        """The zygote; a new one when there is none.

        Raises:
            SettingsError: it cannot import the user's modules.
        """
        async with self._starting:
            if self._forker is not None and not self._forker.alive:
                await self._bury(self._forker)
            if self._forker is None:
                self._forker = await self._start()
                self._started_at = asyncio.get_running_loop().time()
            return self._forker

    async def stop(self) -> None:
        """End it, and its children with it."""
        forker, self._forker = self._forker, None
        if forker is not None:
            await forker.stop()

    async def _bury(self, forker: Forker) -> None:
        self._forker = None
        await forker.stop()
        lived = asyncio.get_running_loop().time() - self._started_at
        self._deaths = 0 if lived >= STABLE else self._deaths + 1
        pause = min(LONGEST, reconnect_wait(self._deaths - 2)) if self._deaths > 1 else 0.0
        _log.warning(
            "the process that forks others died, another one is started",
            extra={"purpose": self._purpose, "pause_seconds": round(pause, 2)},
        )
        await asyncio.sleep(pause)

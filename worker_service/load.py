"""Watches how busy this worker is, and has it take fewer tasks while that is too much.

What runs is never touched: a worker with fewer slots only starts less. Its beats say so, so the schedulers hand out
less, and what it does not take is run elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from common.background import Periodic, Report
from common.telemetry import Telemetry
from common.wire import Load
from worker_service import vitals
from worker_service.events import SlotsChanged
from worker_service.governor import Governor

EVERY: Final = 1.0
"""Seconds between two looks at most."""

_log = logging.getLogger(__name__)


class LoadWatch:
    """Looks about once a second.

    Args:
        governor: decides.
        interval: seconds between two looks.
        loop_lag: the worst lag of the coroutine functions' event loop since it was asked last, seconds.
        running: how many tasks run.
        changed: called when `slots` has changed.
        telemetry: where `SlotsChanged` goes.
        report: told of a crash.
        memory: bytes that the process has; asked in a thread.
    """

    def __init__(
        self,
        governor: Governor,
        interval: float,
        *,
        loop_lag: Callable[[], float],
        running: Callable[[], int],
        changed: Callable[[], None],
        telemetry: Telemetry,
        report: Report | None = None,
        memory: Callable[[], int] = vitals.memory,
    ) -> None:
        self._governor = governor
        self._loop_lag = loop_lag
        self._running = running
        self._changed = changed
        self._telemetry = telemetry
        self._memory = memory
        self._watch = Periodic("load", min(EVERY, interval), self._look, report)
        self.load = Load(cores=vitals.cores())
        """As it was at the last look."""

    @property
    def slots(self) -> int:
        """How many tasks may run at a time now."""
        return self._governor.slots

    @property
    def capacity(self) -> int:
        """How many may when there is not too much load."""
        return self._governor.capacity

    def resize(self, capacity: int) -> None:
        """Have another capacity from now on."""
        self._governor.resize(capacity)
        self._changed()

    async def start(self) -> None:
        """Start watching."""
        self._watch.start()

    async def drain(self) -> None:
        """Nothing: a draining worker tells of its load too."""

    async def stop(self) -> None:
        """Stop watching."""
        await self._watch.stop()

    async def _look(self) -> None:
        # In a thread: walking the pages of a large process takes the kernel some milliseconds.
        memory = await asyncio.get_running_loop().run_in_executor(None, self._memory)
        lag = self._loop_lag()
        before = self._governor.slots
        changed = self._governor.look(memory, lag, self._running())
        self.load = Load(
            load_average=round(vitals.load_average(), 2),
            cores=vitals.cores(),
            memory=memory,
            loop_lag=round(lag, 4),
            lowered=self._governor.lowered,
        )
        if changed:
            self._tell(before)
            self._changed()

    def _tell(self, before: int) -> None:
        now, capacity = self._governor.slots, self._governor.capacity
        fields = {"slots": now, "before": before, "capacity": capacity, "reason": self._governor.lowered}
        if now < before:
            _log.warning("taking fewer tasks at a time", extra=fields)
        else:
            _log.info("taking more tasks at a time again", extra=fields)
        self._telemetry.emit(SlotsChanged(before, now))

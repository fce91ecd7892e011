"""Measures the coroutine functions' event loop, and names who blocks it."""

from __future__ import annotations

import logging
from typing import Any

from common.background import Periodic
from common.telemetry import Telemetry
from worker_service.events import LoopBlocked
from worker_service.runtimes.coroutine import Blockage, CoroutineRuntime

_log = logging.getLogger(__name__)


class LagProbe(Periodic):
    """A part of the service.

    Args:
        coroutines: whose loop it is.
        blocked_after: seconds after which somebody is named.
        telemetry: where `LoopBlocked` goes.
    """

    def __init__(self, coroutines: CoroutineRuntime, blocked_after: float, telemetry: Telemetry) -> None:
        async def probe() -> None:
            coroutines.probe()
            if (blockage := coroutines.blockage(blocked_after)) is not None:
                telemetry.emit(LoopBlocked(blame(blockage)))

        super().__init__("loop lag", min(0.5, blocked_after / 2), probe)

    async def start(self) -> None:  # type: ignore[override]
        """Start measuring."""
        super().start()

    async def drain(self) -> None:
        """Nothing."""


def blame(blockage: Blockage) -> str:
    """Log who blocks the event loop; the task function's name."""
    attempt = blockage.attempt
    fields: dict[str, Any] = {"seconds": round(blockage.seconds, 1), "stack": blockage.stack}
    if attempt is not None:
        of = attempt.assignment
        fields |= {"task_id": of.id, "task": of.task, "attempt": of.attempt}
    _log.warning("a coroutine function blocks the event loop of all coroutine functions", extra=fields)
    return "" if attempt is None else attempt.assignment.task

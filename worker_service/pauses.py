"""Notices that this worker stood still: stopped by a signal, frozen with its container, suspended with its machine.

Whoever stands still hears nothing. What it had been given and had not started may have been cancelled meanwhile, or be
in another worker's hands; and when it goes on, that lies before the news in every buffer. So before anything is started
the clock is looked at. A gap much longer than the time between two looks was a pause: what has not started goes back,
and what comes is started only once the worker has been told what it may have missed (see `briefing`). The scheduler
knows which of it is still to be done, and hands it out again within milliseconds::

    given ──> pause ──> first look ──> given back: what waits here, what runtimes have not begun, what is still read
                                   └─> asks for the mark, subscribes anew: what is dispatched from the mark on is run

The cause does not matter. A function that keeps the interpreter's lock for as long makes the worker just as deaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from common import clocks
from common.background import Periodic, Report

TICK: Final = 0.25
"""Seconds between two looks at most."""
LIMIT: Final = 1.0
"""Seconds between two looks from which on it was a pause. Much longer than a busy machine delays a look; a shorter
pause is like a slow network: what happened meanwhile is heard just as late."""


class PauseDetector:
    """Tells what was begun before a pause from what was begun after it.

    Args:
        woken: called with the length of each pause, seconds, before anything else is done.
        limit: seconds between two looks from which on it was a pause.
        clock: seconds of a clock that goes on during a pause.
        steady: the clock by which things are begun.
    """

    def __init__(
        self,
        woken: Callable[[float], None],
        *,
        limit: float = LIMIT,
        clock: Callable[[], float] = clocks.unbroken,
        steady: Callable[[], float] = clocks.steady,
    ) -> None:
        self._woken = woken
        self._limit = limit
        self._clock = clock
        self._steady = steady
        self._looked_at = clock()
        self.away_until = -math.inf
        """What was begun before this moment was begun before a pause, by the steady clock."""

    def begin(self) -> None:
        """Count no time before this moment."""
        self._looked_at = self._clock()

    def look(self) -> None:
        """Notice a pause that is over; call it each `TICK`, and before anything is started."""
        now = self._clock()
        gap = now - self._looked_at
        if gap > self._limit:
            self.away()
            self._looked_at = now
            self._woken(gap)
        self._looked_at = now

    def away(self) -> None:
        """Count what was begun until now as begun before a pause."""
        self.away_until = self._steady()

    def missed(self, begun: float) -> bool:
        """Whether what was begun at this moment, by the steady clock, has a pause behind it.

        May be called in any thread, which may be the first one to go on after a pause, before anybody has looked.
        """
        # In this order: `look` moves the mark before it forgets the gap.
        return self._clock() - self._looked_at > self._limit or begun < self.away_until


class PauseWatch(Periodic):
    """Has a detector look each `TICK`; a part of the service.

    Args:
        detector: looks.
        report: told of a crash.
    """

    def __init__(self, detector: PauseDetector, report: Report | None = None) -> None:
        async def look() -> None:
            detector.look()

        super().__init__("pauses", TICK, look, report)
        self._detector = detector

    async def start(self) -> None:  # type: ignore[override]
        """Start looking."""
        self._detector.begin()
        super().start()

    async def drain(self) -> None:
        """Go on: what is drained may be started still."""

"""A clock that can be put forward: for the whole process, while a harness runs.

`time.time`, `time.monotonic` and with them every asyncio loop show real time plus what was added by `advance`. What
blocks in the operating system (`time.sleep`, a socket) is not moved.
"""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Any, Self

from common.errors import HarnessError

_REAL = (time.time, time.monotonic)


class Clock:
    """Puts the process's clocks forward; in force inside a ``with`` block.

    Attributes:
        ahead: by how many seconds.
    """

    _active: Clock | None = None

    def __init__(self) -> None:
        self.ahead = 0.0
        self._loops: list[asyncio.AbstractEventLoop] = []

    def __enter__(self) -> Self:
        if Clock._active is not None:
            raise HarnessError("another harness is running in this process, and the clock can be moved only by one")
        Clock._active = self
        time.time, time.monotonic = _time, _monotonic
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @classmethod
    def release(cls) -> bool:
        """Put the real clocks back; whether they had been moved."""
        time.time, time.monotonic = _REAL
        active, Clock._active = Clock._active, None
        return active is not None

    @classmethod
    def added(cls) -> float:
        """Seconds by which the clocks of this process are ahead now."""
        return 0.0 if cls._active is None else cls._active.ahead

    @staticmethod
    def real() -> float:
        """Seconds that really pass, for what must not wait for ever."""
        return _REAL[1]()

    def wakes(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` may be asleep until one of its timers is due: wake it at each `advance`."""
        self._loops.append(loop)

    def advance(self, seconds: float) -> None:
        """Put the clocks forward.

        Args:
            seconds: 0 or more.
        """
        if seconds < 0:
            raise ValueError(f"the clock cannot go back, {seconds:g} s were asked for")
        self.ahead += seconds
        for loop in self._loops:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_nothing)


def movable(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the clock of `loop` is the process's; uvloop asks the operating system by itself."""
    return getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop that tells when its next timer is due."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[asyncio.TimerHandle] = []
        self._lock = threading.Lock()

    def call_at(self, when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        """See `asyncio.loop.call_at`."""
        handle = super().call_at(when, *arguments, **options)
        with self._lock:
            self._timers.append(handle)
        return handle

    def next_timer(self) -> float | None:
        """Seconds, 0 or more, until the next timer that is still wanted; None without any. For any thread."""
        now = self.time()
        with self._lock:
            self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > now]
            return min((timer.when() - now for timer in self._timers), default=None)


# One pair of functions for all clocks: a module that is imported while a harness runs may keep them for ever.
def _time() -> float:
    return _REAL[0]() + Clock.added()


def _monotonic() -> float:
    return _REAL[1]() + Clock.added()


def _nothing() -> None:
    """Something to wake up for."""

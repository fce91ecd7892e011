"""The clocks that a service goes by when it is given no other.

They are looked up at each call. As a default of an argument, `time.time` itself would be bound when its module is
imported, and would not know of a test that puts the clock forward (`common.testing`).
"""

from __future__ import annotations

import time
from typing import Final

_UNBROKEN: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall() -> float:
    """Seconds since the epoch."""
    return time.time()


def steady() -> float:
    """Seconds of a clock that is never set."""
    return time.monotonic()


def unbroken() -> float:
    """Seconds of a clock that is never set, and goes on while the machine is suspended where the system has one.

    Not moved by a test that puts the other clocks forward: it tells what really passed.
    """
    return time.clock_gettime(_UNBROKEN)

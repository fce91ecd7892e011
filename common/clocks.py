"""The clocks that a service goes by when it is given no other.

They are looked up at each call. As a default of an argument, `time.time` itself would be bound when its module is
imported, and would not know of a test that puts the clock forward (`common.testing`).
"""

from __future__ import annotations

import time


def wall() -> float:
    """Seconds since the epoch."""
    return time.time()


def steady() -> float:
    """Seconds of a clock that is never set."""
    return time.monotonic()

"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 30.0


def reconnect_wait(failures: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait before the next try: exponential with full jitter, so that a herd does not return at once.

    Args:
        failures: tries that have failed since the last success, from 0.
        uniform: draws a number between two others.
    """
    return uniform(FIRST_WAIT / 2, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(failures, 20)))

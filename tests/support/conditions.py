"""Waiting for a condition, and for nothing else."""

import time
from collections.abc import Callable

_POLL = 0.02  # seconds between two looks at first
_SLOWEST = 0.2  # and at last: a look may be a scrape of all metrics, and the machine has other tests to run
_PART = 0.05  # of the time waited so far


def wait_until(holds: Callable[[], object], timeout: float, what: str, state: Callable[[], object] = str) -> None:
    """Return as soon as `holds()` is true.

    Args:
        holds: the condition.
        timeout: seconds until the wait counts as failed.
        what: the condition in words.
        state: called on failure; says how things stand instead.

    Raises:
        AssertionError: the condition did not come true in time.
    """
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        assert waited < timeout, f"{what}: not within {timeout:g} s; {state()}"
        time.sleep(min(_SLOWEST, max(_POLL, _PART * waited)))

"""Waiting for a condition, and for nothing else."""

import time
from collections.abc import Callable

_POLL = 0.02  # seconds between two looks


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
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s; {state()}"
        time.sleep(_POLL)

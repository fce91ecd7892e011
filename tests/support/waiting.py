"""Waiting for a condition, not for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any


async def eventually(condition: Callable[[], Any], *, timeout: float = 15.0) -> Any:
    """The first true value of `condition`; fails with its last value after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {getattr(condition, '__name__', condition)} is {value!r}")
        await asyncio.sleep(0.01)
    return value

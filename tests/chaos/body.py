"""What a task does, in whatever system: write down its start, take its time, fail as told, write down its end."""

import asyncio
import time

from tests.chaos.workload import answer
from tests.support.effects import record


class Flaky(Exception):
    """A failure that is to be retried."""


class Doomed(Exception):
    """A failure that is not."""


def run(key: int, seconds: float, failures: int, doomed: bool, failed: int) -> int:
    """Do it, in a thread or a process.

    Args:
        key, seconds, failures, doomed: see `tests.chaos.workload.Job`.
        failed: how many attempts have failed before this one.
    """
    record(key)
    time.sleep(seconds)
    return _end(key, failures, doomed, failed)


async def run_async(key: int, seconds: float, failures: int, doomed: bool, failed: int) -> int:
    """The same as a coroutine."""
    record(key)
    await asyncio.sleep(seconds)
    return _end(key, failures, doomed, failed)


def _end(key: int, failures: int, doomed: bool, failed: int) -> int:
    if doomed:
        record(key, "doomed")
        raise Doomed(f"{key} never succeeds")
    if failed < failures:
        record(key, "failed")
        raise Flaky(f"{key} fails {failures} times")
    value = answer(key)
    record(key, "end", value)
    return value

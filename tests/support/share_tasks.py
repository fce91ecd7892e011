"""Task functions that hold a slot and tell for how long. One for each queue: run times are expected by function."""

import asyncio
import time

from common import task
from tests.support.effects import record


async def _hold(queue: str, seconds: float) -> None:
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    record(0, queue, time.perf_counter() - began)


for _queue in "abc":
    task(name=f"hold_{_queue}")(_hold)

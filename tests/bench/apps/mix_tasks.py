"""The task of the mix of short and long ones, on a worker of a given speed."""

import asyncio
import os
import time

from common import task

_SPEED = float(os.environ.get("WARREN_BENCH_SPEED", "1"))


@task(name="bench.mix")
async def mix(run: float) -> tuple[float, float, float]:
    """Take as long as `run` seconds take at this worker's speed; returns when it began and ended, and the speed."""
    began = time.time()
    await asyncio.sleep(run / _SPEED)
    return began, time.time(), _SPEED

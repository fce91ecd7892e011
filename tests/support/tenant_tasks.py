"""The task function of two tenants: it holds a slot, and tells when."""

import asyncio
import time

from common import task


@task(name="tenant.work")
async def work(seconds: float) -> tuple[float, float]:
    """Returns when it began and when it ended, seconds since the epoch."""
    began = time.time()
    await asyncio.sleep(seconds)
    return began, time.time()

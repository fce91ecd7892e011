"""Task functions to begin with.

Start a worker with them::

    warren worker examples.tasks --queues default,math --slots 50
"""

import asyncio
import hashlib

from common import task


@task
async def add(x: int, y: int) -> int:
    """Add two numbers: the shortest coroutine function."""
    return x + y


@task
async def nap(seconds: float) -> float:
    """Wait without using a thread; a worker runs as many of these at once as it has slots."""
    await asyncio.sleep(seconds)
    return seconds


@task(queue="math", priority=6)
def digest(text: str, rounds: int = 100_000) -> str:
    """Compute for a while: a plain function runs in a thread, so the worker stays responsive."""
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"warren", rounds).hex()


@task
async def divide(x: float, y: float) -> float:
    """Fail when `y` is 0: the client gets `TaskFailed` with the type, the message and the traceback."""
    return x / y

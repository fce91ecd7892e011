"""The no-op tasks that Warren's worker loads."""

import time

from common import task
from tests.bench.apps import doom


@task(name="bench.noop")
async def noop() -> None:
    """Do nothing, in the worker's event loop."""


@task(name="bench.noop_thread")
def noop_thread() -> None:
    """Do nothing, in one of the worker's threads."""


@task(name="bench.late")
async def late(due: float) -> float:
    """Return by how many seconds it was started after `due`, seconds since the epoch."""
    return time.time() - due


nap = task(name="bench.nap")(doom.async_nap)
killer = task(name="bench.killer")(doom.kill)

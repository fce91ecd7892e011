"""The no-op tasks that Warren's worker loads."""

from common import task


@task(name="bench.noop")
async def noop() -> None:
    """Do nothing, in the worker's event loop."""


@task(name="bench.noop_thread")
def noop_thread() -> None:
    """Do nothing, in one of the worker's threads."""

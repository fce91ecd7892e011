"""The task as Warren's three kinds of task functions."""

from common import Backoff, ctx, task
from tests.chaos.body import run, run_async


@task(name="chaos.coroutine", retries=20, backoff=Backoff(base=1.0, cap=3.0), give_up_on=("Doomed",))
async def in_coroutine(key: int, seconds: float, failures: int, doomed: bool) -> int:
    """Run in the worker's event loop."""
    return await run_async(key, seconds, failures, doomed, ctx.attempt - 1)


@task(name="chaos.thread", retries=20, backoff=Backoff(base=1.0, cap=3.0), give_up_on=("Doomed",))
def in_thread(key: int, seconds: float, failures: int, doomed: bool) -> int:
    """Run in one of the worker's threads."""
    return run(key, seconds, failures, doomed, ctx.attempt - 1)


@task(name="chaos.process", runtime="process", retries=20, backoff=Backoff(base=1.0, cap=3.0), give_up_on=("Doomed",))
def in_process(key: int, seconds: float, failures: int, doomed: bool) -> int:
    """Run in one of the worker's processes."""
    return run(key, seconds, failures, doomed, ctx.attempt - 1)

"""Task functions that use processes and threads of their own, and the environment."""

import multiprocessing
import os
import threading
import time

from common import task

_fork = multiprocessing.get_context("fork")


def _end_one() -> int | None:
    process = _fork.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode


def _doubled(number: int) -> int:
    return 2 * number


@task
async def end_one_on_loop() -> int | None:
    """Fork a process and terminate it; return its exit code."""
    return _end_one()


@task
def end_one_in_thread() -> int | None:
    """The same."""
    return _end_one()


@task(runtime="process")
def end_one_in_process() -> int | None:
    """The same."""
    return _end_one()


@task
def double_in_pool() -> list[int]:
    """Have two forked processes compute, as the documentation of `multiprocessing` begins."""
    with _fork.Pool(2) as pool:
        return pool.map(_doubled, range(4))


@task(runtime="process")
def double_in_pool_in_process() -> list[int]:
    """The same."""
    with _fork.Pool(2) as pool:
        return pool.map(_doubled, range(4))


@task
def leave_behind() -> int:
    """Leave a thread that is no daemon, and a process that is no daemon either; neither ends. Return its id."""
    threading.Thread(target=time.sleep, args=(3600,)).start()
    process = _fork.Process(target=time.sleep, args=(3600,))
    process.start()
    assert process.pid is not None
    return process.pid


@task
def read_environment(seconds: float) -> str:
    """What a variable of the worker's environment is, after a while."""
    time.sleep(seconds)
    return os.environ["SHOP_DATABASE_URL"]

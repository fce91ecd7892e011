"""Task functions of the system tests. Each writes its effect before it does anything else."""

import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path

from common import ctx, task
from common.context import current
from common.questions import Progress
from tests.support.effects import record


@task
async def square(key: int, seconds: float = 0.0) -> int:
    """Square `key`, after a while."""
    record(key)
    await asyncio.sleep(seconds)
    record(key, "end")
    return key * key


@task
async def square_behind_gate(key: int, gate: str) -> int:
    """The same, when the file `gate` is there."""
    record(key)
    while not _exists(gate):  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.05)
    record(key, "end")
    return key * key


@task
def square_in_thread(key: int, seconds: float = 0.0) -> int:
    """The same as a plain function."""
    record(key)
    time.sleep(seconds)
    record(key, "end")
    return key * key


@task
async def square_or_stop(key: int, marker: str = "", padding: str = "") -> int:
    """Square `key`; the first one that is given this `marker` has its whole process stand still there."""
    record(key)
    _stop(marker)
    record(key, "end")
    return key * key


@task
def square_or_stop_in_thread(key: int, marker: str = "", padding: str = "") -> int:
    """The same as a plain function."""
    record(key)
    _stop(marker)
    record(key, "end")
    return key * key


@task
async def moment() -> float:
    """When it was started, seconds since the epoch."""
    return time.time()


@task
async def block(key: int, seconds: float) -> int:
    """Block the event loop of all coroutine functions."""
    record(key)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    record(key, "end")
    return key * key


@task
async def count_up(key: int, steps: int, seconds: float) -> int:
    """Report progress at each step, and pause there."""
    record(key)
    for step in range(steps):
        ctx.progress(step, steps, f"step {step}")
        await asyncio.sleep(seconds)
    return steps


@task
async def count_until(key: int, gate: str, seconds: float) -> int:
    """Report progress, and pause, until the file `gate` is there."""
    record(key)
    step = 0
    while not _exists(gate):
        ctx.progress(step, note=f"step {step}")
        step += 1
        await asyncio.sleep(seconds)
    return step


@task
async def have_child(key: int) -> str:
    """Submit a task that squares `key`; return its id."""
    record(key)
    return await ctx.submit("square", key)


@task
async def fail(key: int) -> None:
    """Raise."""
    record(key)
    raise ValueError(f"no {key}")


@task
async def kill_process(key: int) -> None:
    """End the process that runs this by SIGKILL."""
    record(key)
    os.kill(os.getpid(), signal.SIGKILL)


@task
async def segfault(key: int) -> None:
    """Read from address 0."""
    record(key)
    ctypes.string_at(0)


@task
async def exit_at_once(key: int) -> None:
    """End the process without any cleaning up, with a code that looks like success."""
    record(key)
    os._exit(0)


@task
async def crash_service(key: int) -> None:
    """Make a part of the worker itself raise: what it is to send cannot be encoded."""
    record(key)
    here = current.get()
    here.surroundings.progress(here.assignment.lease, Progress(1.0, 2.0, "\ud800", time.time()))
    await asyncio.sleep(60)


@task
async def kill_worker(key: int) -> None:
    """Kill the worker, however deep below it this runs."""
    record(key)
    pid = os.getpid()
    while b"multiprocessing.forkserver" not in _command(pid):  # which has forked the worker (`tests.support.nursery`)
        pid = _parent(pid)
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(60)


def _stop(marker: str) -> None:
    if not marker:
        return
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)


def _exists(path: str) -> bool:
    return Path(path).exists()


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

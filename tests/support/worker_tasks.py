"""Task functions for the worker's tests; also imported by its processes for suspects."""

import asyncio
import contextvars
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common.tasks import task

gates: dict[str, threading.Event] = {}
"""What `wait_for` and `block_for` wait for; the tests set them."""
seen = contextvars.ContextVar("seen", default="")


@task
async def add(x: int, y: int) -> int:
    return x + y


@task
def plain_add(x: int, y: int) -> int:
    return x + y


@task
async def noop() -> None:
    return None


@task
def plain_noop() -> None:
    return None


@task
async def wait_for(gate: str) -> str:
    while not gates[gate].is_set():  # noqa: ASYNC110 - the test is in another event loop
        await asyncio.sleep(0.005)
    return gate


@task
def plain_wait_for(gate: str) -> str:
    gates[gate].wait(30.0)
    return gate


@task
async def stubborn(gate: str) -> str:
    """Ends only when its gate opens, whatever is done to it."""
    while not gates[gate].is_set():
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            continue
    return gate


@task
async def block_for(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@task
async def fail(text: str) -> None:
    raise ValueError(text)


@task
async def raise_base(name: str) -> None:
    kinds: dict[str, type[BaseException]] = {
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
        "GeneratorExit": GeneratorExit,
        "RecursionError": RecursionError,
    }
    raise kinds[name]("on purpose")


@task
def plain_raise_base(name: str) -> None:
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[name]("on purpose")


@task
async def leave_bomb_behind() -> None:
    async def bomb() -> None:
        raise SystemExit(3)

    leave_bomb_behind.task = asyncio.get_running_loop().create_task(bomb())  # type: ignore[attr-defined]


@task
async def give(what: str) -> Any:
    return {
        "object": object(),
        "nan": [1.0, float("nan")],
        "infinity": {"x": float("inf")},
        "none": {"x": None, "y": 1.5},
        "large": "x" * 3_000_000,
        "medium": "x" * 100_000,
        "surrogate": "\ud800",
    }[what]


@task
def remember(text: str) -> str:
    before = seen.get()
    seen.set(text)
    return before


@task
async def die(how: str) -> None:
    _die(how)


@task
def plain_die(how: str) -> None:
    _die(how)


def _die(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(0)
    elif how == "parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(30.0)


@task
def describe_process() -> dict[str, Any]:
    links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return {
        "pid": os.getpid(),
        "environment": sorted(os.environ),
        "initial": Path("/proc/self/environ").read_bytes().decode(),
        "sockets": sum(link.startswith("socket:") for link in links),
    }


@task
def shout(size: int) -> int:
    sys.stdout.write("x" * size)
    return size


@task
async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task
def plain_sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
def append_line(path: str, line: str) -> None:
    """One entry of an effect log, written at once."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)

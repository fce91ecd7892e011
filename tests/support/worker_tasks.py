"""Task functions for the worker's tests; also imported by its processes for suspects."""

import asyncio
import contextvars
import ctypes
import os
import re
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from common.context import ctx
from common.errors import Fail, Retry, TaskTimeout
from common.options import Policy
from common.tasks import task

gates: dict[str, threading.Event] = {}
"""What `wait_for` and `block_for` wait for; the tests set them."""
arrived: list[str] = []
"""The gates at which functions have arrived, each time: then it is their own code that runs."""
SHORT = Policy(timeout=0.05, hard_timeout=0.1)
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
    arrived.append(gate)
    while not gates[gate].is_set():  # noqa: ASYNC110 - the test is in another event loop
        await asyncio.sleep(0.005)
    return gate


@task
def plain_wait_for(gate: str) -> str:
    arrived.append(gate)
    gates[gate].wait(30.0)
    return gate


@task
async def stubborn(gate: str) -> str:
    """Ends only when its gate opens, whatever is done to it."""
    arrived.append(gate)
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


@task(retries=3, retry_on=(OSError, "LookupError"), give_up_on=(FileNotFoundError,))
async def fail_as(name: str) -> None:
    kinds: dict[str, Exception] = {
        "OSError": OSError("no network"),
        "ConnectionResetError": ConnectionResetError("no network"),
        "KeyError": KeyError("a"),
        "FileNotFoundError": FileNotFoundError("a.txt"),
        "ValueError": ValueError("wrong"),
        "Retry": Retry(after=7),
        "Fail": Fail("there is no such customer"),
    }
    raise kinds[name]


@task(name="process_fail_as", runtime="process", retries=2, max_crashes=1)
def process_fail_as(name: str) -> None:
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "Retry":
        raise Retry
    raise ValueError(name)


def _hang(path: str) -> None:
    """Log what happens to it; ends after ten minutes by itself."""
    try:
        for _ in range(60_000):
            time.sleep(0.01)
    except BaseException as error:
        append_line(path, type(error).__name__)
        raise


async def _hang_on_loop(path: str) -> None:
    """Log what happens to it; a file beside the log says that it has begun."""
    try:
        append_line(f"{path}.began", "")
        await asyncio.sleep(600)
    except BaseException as error:
        append_line(path, "TaskTimeout" if isinstance(error, TaskTimeout) else type(error).__name__)
        raise


task(name="hang_in_thread")(_hang)
task(name="hang_in_process", runtime="process")(_hang)
task(name="hang_on_loop")(_hang_on_loop)
task(name="hang_on_loop_in_process", runtime="process")(_hang_on_loop)


@task
async def catch_timeout() -> str:
    try:
        await asyncio.sleep(600)
    except TaskTimeout:
        await asyncio.sleep(0.001)
        async with asyncio.timeout(5.0):
            await asyncio.sleep(0.001)
        return "cleaned up"
    return "never"


@task(name="plain_catch_timeout")
def plain_catch_timeout() -> str:
    return _catch()


@task(name="process_catch_timeout", runtime="process")
def process_catch_timeout() -> str:
    return _catch()


def _catch() -> str:
    try:
        for _ in range(60_000):
            time.sleep(0.01)
    except TaskTimeout:
        time.sleep(0.05)
        return "cleaned up"
    return "never"


@task
async def hang_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(600))
        await asyncio.sleep(600)


@task(runtime="process")
def sleep_in_c(seconds: float) -> None:
    time.sleep(seconds)


@task(runtime="process")
def process_pid() -> int:
    return os.getpid()


@task(runtime="process")
async def process_add(x: int, y: int) -> int:
    return x + y


@task(runtime="process")
def grow(mebibytes: int) -> int:
    return len(b"x" * (mebibytes * 1024 * 1024))


@task
def plain_grow(mebibytes: int) -> int:
    return len(b"x" * (mebibytes * 1024 * 1024))


@task
def until_cancelled(path: str) -> str:
    for _ in range(6000):
        if ctx.cancelled:
            append_line(path, "seen")
            return "stopped"
        time.sleep(0.01)
    return "never"


def _describe() -> dict[str, Any]:
    ctx.log.warning("bound to its task", extra={"more": 1})
    return {
        "id": ctx.task_id,
        "name": ctx.name,
        "queue": ctx.queue,
        "attempt": ctx.attempt,
        "left": None if ctx.deadline is None else ctx.deadline - time.time(),
        "cancelled": ctx.cancelled,
    }


@task
async def describe_on_loop() -> dict[str, Any]:
    await asyncio.sleep(0)
    return await asyncio.to_thread(_describe)


task(name="describe_in_thread")(_describe)
task(name="describe_in_process", runtime="process")(_describe)


def _report(count: int, seconds: float) -> None:
    for number in range(count):
        ctx.progress(number + 1, count, f"part {number + 1}")
        time.sleep(seconds / count)


@task
async def report_on_loop(count: int, seconds: float) -> None:
    for number in range(count):
        ctx.progress(number + 1, count, f"part {number + 1}")
        await asyncio.sleep(seconds / count)


task(name="report_in_thread")(_report)
task(name="report_in_process", runtime="process")(_report)


def _report_and_wait(seconds: float) -> None:
    for number in (1, 2, 3):
        ctx.progress(number, 3)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not ctx.cancelled:
        time.sleep(0.01)


@task
async def report_and_wait_on_loop(seconds: float) -> None:
    for number in (1, 2, 3):
        ctx.progress(number, 3)
    await asyncio.sleep(seconds)


task(name="report_and_wait_in_thread")(_report_and_wait)
task(name="report_and_wait_in_process", runtime="process")(_report_and_wait)


@task(runtime="process")
def submit_for_ever() -> None:
    while True:
        ctx.submit("add", 1, 1)


class Moment(msgspec.Struct):
    at: datetime
    n: int


def _check(moments: list[Moment], *, give: str = "") -> Any:
    if give == "Retry":
        raise Retry(after=7)
    if give == "Fail":
        raise Fail("no use")
    if give:
        return {"object": object(), "nan": float("nan")}[give]
    return [moments[0].at, moments[0].n]


async def _check_on_loop(moments: list[Moment], *, give: str = "") -> Any:
    return _check(moments, give=give)


task(name="check_on_loop")(_check_on_loop)
task(name="check_in_thread")(_check)
task(name="check_in_process", runtime="process")(_check)
task(name="check_on_loop_in_process", runtime="process")(_check_on_loop)


@task(runtime="process")
async def grow_on_loop_in_process(mebibytes: int) -> int:
    return len(b"x" * (mebibytes * 1024 * 1024))


@task
async def submit_on_loop(count: int) -> list[str]:
    return [await ctx.submit("add", number, 1) for number in range(count)]


@task
async def submit_and_forget() -> str:
    return ctx.submit(add, 1, 2).id


def _submit(count: int) -> list[str]:
    return [ctx.submit("add", number, 1).id for number in range(count)]


task(name="submit_in_thread")(_submit)
task(name="submit_in_process", runtime="process")(_submit)


task(name="process_die", runtime="process")(_die)
task(name="process_remember", runtime="process")(remember.function)


def _count(path: str, until: int) -> int:
    """Fails until its attempt `until`."""
    append_line(path, str(ctx.attempt))
    if ctx.attempt < until:
        raise ValueError(f"attempt {ctx.attempt}")
    return ctx.attempt


@task
async def count_on_loop(path: str, until: int) -> int:
    return _count(path, until)


task(name="count_in_thread")(_count)
task(name="count_in_process", runtime="process")(_count)


@task(requires={"gpu"})
async def on_gpu(x: int) -> int:
    return x


@task(requires=("gpu", "big"))
def on_big_gpu(x: int) -> int:
    return x


async def _deepest(gate: str) -> None:
    arrived.append(gate)
    while not gates[gate].is_set():  # noqa: ASYNC110 - the test is in another event loop
        await asyncio.sleep(0.005)


@task
async def nested_wait_for(gate: str) -> str:
    """Waits for tasks of its own, in all ways that there are."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_deepest(gate), name="in the group")
        await asyncio.gather(_deepest(gate), asyncio.shield(asyncio.create_task(_deepest(gate), name="shielded")))
    return gate


@task(runtime="process")
async def process_sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task(runtime="process")
async def process_block_for(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@task(runtime="process")
def process_in_c(length: float) -> bool:
    """Ends never, and does not let the interpreter go: nothing written in Python gets to run there."""
    return re.match("(a+)+$", "a" * int(length) + "b") is None


@task(runtime="process")
def hold_memory(mebibytes: int, seconds: float) -> int:
    held = b"x" * (mebibytes * 1024 * 1024)
    time.sleep(seconds)
    return len(held)

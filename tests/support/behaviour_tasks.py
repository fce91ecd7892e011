"""Task functions for the behaviour suite, run by workers in this process and by their children."""

from __future__ import annotations

import asyncio
import builtins
import os
import threading
import time
from collections import defaultdict

from common import Backoff, Fail, Retry, TaskTimeout, ctx, task
from common.options import BackoffKind

SHORTLY = Backoff(kind=BackoffKind.CONSTANT, base=0.2, jitter=False)

seen: dict[str, list[str]] = defaultdict(list)
"""What ran, by the token that a test gives to its tasks; only of those that run in the test's process."""
gates: dict[str, threading.Event] = defaultdict(threading.Event)
"""What `hold` waits for, by token."""


@task(name="behave.add")
async def add(x: int, y: int) -> int:
    return x + y


@task(name="behave.misjudge", retries=5)
async def misjudge(text: str) -> list[int]:
    return [0, text]  # type: ignore[list-item]


@task(name="behave.misjudge_in_thread", retries=5)
def misjudge_in_thread(text: str) -> list[int]:
    return [0, text]  # type: ignore[list-item]


@task(name="behave.misjudge_in_process", retries=5, runtime="process")
def misjudge_in_process(text: str) -> list[int]:
    return [0, text]  # type: ignore[list-item]


@task(name="behave.note")
def note(token: str, text: str) -> str:
    seen[token].append(text)
    return text


@task(name="behave.fail", retries=0)
def fail(token: str, text: str) -> None:
    seen[token].append(text)
    raise ValueError(text)


@task(name="behave.fail_at_first", retries=5, backoff=SHORTLY)
async def fail_at_first(token: str, failures: int) -> int:
    seen[token].append("run")
    if ctx.attempt <= failures:
        raise OSError(f"failure {ctx.attempt}")
    return ctx.attempt


@task(name="behave.raise_as", retries=2, backoff=SHORTLY, retry_on=(OSError,), give_up_on=(FileNotFoundError,))
def raise_as(token: str, kind: str) -> None:
    seen[token].append("run")
    raise getattr(builtins, kind)("on purpose")


@task(name="behave.ask_again")
async def ask_again(token: str, after: float) -> int:
    seen[token].append(str(time.time()))
    if ctx.attempt == 1:
        raise Retry(after=after)
    return ctx.attempt


@task(name="behave.give_up", retries=5, backoff=SHORTLY)
async def give_up(token: str) -> None:
    seen[token].append("run")
    raise Fail("no use")


@task(name="behave.hold")
async def hold(token: str) -> str:
    """Ends when its gate opens, or when it is interrupted."""
    seen[token].append("begun")
    try:
        while not gates[token].is_set():  # noqa: ASYNC110 - the test is in another event loop
            await asyncio.sleep(0.01)
    except TaskTimeout:
        seen[token].append("TaskTimeout")
        raise
    except asyncio.CancelledError:
        seen[token].append("CancelledError")
        raise
    seen[token].append("ended")
    return token


@task(name="behave.hold_in_thread")
def hold_in_thread(token: str) -> str:
    seen[token].append("begun")
    try:
        while not gates[token].is_set() and not ctx.cancelled:
            time.sleep(0.01)
    except TaskTimeout:
        seen[token].append("TaskTimeout")
        raise
    seen[token].append("cancelled" if ctx.cancelled else "ended")
    return token


@task(name="behave.never_mind")
async def never_mind(token: str) -> None:
    """Does not let itself be interrupted by a timeout."""
    while not gates[token].is_set():
        try:
            await asyncio.sleep(0.01)
        except TaskTimeout:
            seen[token].append("TaskTimeout")
        except asyncio.CancelledError:
            seen[token].append("CancelledError")
            raise


@task(name="behave.hold_stubbornly")
async def hold_stubbornly(token: str) -> None:
    """Ends when its gate opens, whatever is done to it."""
    seen[token].append("begun")
    while not gates[token].is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            seen[token].append("CancelledError")
    seen[token].append("ended")


@task(name="behave.hold_stubbornly_in_thread")
def hold_stubbornly_in_thread(token: str) -> None:
    seen[token].append("begun")
    while not gates[token].is_set():
        try:
            gates[token].wait(60)
        except TaskTimeout:
            seen[token].append("TaskTimeout")
    seen[token].append("ended")


@task(name="behave.report")
async def report(token: str) -> None:
    ctx.progress(3, 10, "at work")
    await hold.function(token)


@task(name="behave.beget")
async def beget(x: int) -> str:
    return await ctx.submit(add, x, x)


@task(name="behave.beget_in_thread")
def beget_in_thread(x: int) -> str:
    return ctx.submit("behave.add", x, x).id


@task(name="behave.in_process", runtime="process")
def in_process(x: int) -> list[int]:
    return [x, os.getpid()]


@task(name="behave.awaited_in_process", runtime="process")
async def awaited_in_process(x: int) -> int:
    await asyncio.sleep(0.01)
    return x


@task(name="behave.process_fails", runtime="process")
def process_fails() -> None:
    raise LookupError("in a process")

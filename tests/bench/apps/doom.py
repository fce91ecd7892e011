"""A task that kills the process that runs it, and those beside it."""

import asyncio
import os
import signal
import time

from tests.bench.site import Site

NAP = 0.02
"""Seconds that a task beside the killer takes."""


def nap() -> None:
    """Take a moment, in a thread or a process."""
    time.sleep(NAP)


async def async_nap() -> None:
    """Take a moment, in an event loop."""
    await asyncio.sleep(NAP)


def kill() -> None:
    """Note that it runs, and end its process as the kernel does when memory is out."""
    with Site.from_environment().file("kills").open("a") as file:
        file.write(".")
    os.kill(os.getpid(), signal.SIGKILL)

"""Looks at processes through `/proc`; where there is none (macOS), a node's children are left to end by themselves."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_POLL = 0.005  # seconds between two looks


def descendants(pid: int) -> list[int]:
    """Return the child processes of `pid` and theirs, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            children.setdefault(parent(int(entry.name)), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def parent(pid: int) -> int:
    """Return the process id of the parent of `pid`.

    Raises:
        OSError: there is no such process.
    """
    return int(_fields(pid)[1])


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be noticed by its parent does not."""
    return _state(pid) not in "ZX"


def kill_all(pids: Iterable[int]) -> None:
    """Send SIGKILL to each process; one that has ended meanwhile is no fault."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def await_stopped(pid: int) -> None:
    """Return once the process has really stopped after a SIGSTOP, or has ended."""
    while _state(pid) not in "TZX":
        time.sleep(_POLL)


def _state(pid: int) -> str:
    """The letter that `proc(5)` has for the state of a process; X when there is none."""
    try:
        return _fields(pid)[0]
    except OSError:
        return "X"


def _fields(pid: int) -> list[str]:
    # The name, in brackets, may hold spaces and brackets; the fields behind it begin with the state and the parent.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()

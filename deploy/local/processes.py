"""Looks at processes through `/proc`; where there is none (macOS), a node's children are left to end by themselves."""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return the child processes of `pid` and theirs, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold spaces and brackets; the parent is the second field behind it.
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be noticed by its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def kill_all(pids: Iterable[int]) -> None:
    """Send SIGKILL to each process; one that has ended meanwhile is no fault."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def await_stopped(pid: int) -> None:
    """Return once our child process `pid` has really stopped after a SIGSTOP, or has ended."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

"""How busy this process and its machine are, as the kernel says (proc(5)); without /proc as much as Python knows."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_RESIDENT: Final = 1
"""The field of statm with the resident pages (proc_pid_statm(5))."""
_MOST: Final = 10_000
"""Processes that are counted at most: one that starts others without end must not keep us here."""


def cores() -> int:
    """How many of the machine's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """The machine's load, over a minute; 0 where it is not known."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def memory() -> int:
    """Bytes that this process and its children, and theirs, keep in memory.

    Forked processes share most of their pages, so each page of a child counts in part, divided by how many share it
    (Pss): added up, their resident sizes would tell of memory that nobody has. Takes a millisecond for each child.
    """
    if not (_PROC / "self" / "statm").exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return _resident(os.getpid()) + sum(_share(child) for child in descendants(os.getpid()))


def descendants(pid: int) -> Iterator[int]:
    """The children of a process, and theirs, as far as they can be seen."""
    waiting, seen = [pid], {pid}
    while waiting and len(seen) < _MOST:
        for child in _children(waiting.pop()):
            if child not in seen:
                seen.add(child)
                waiting.append(child)
                yield child


def _children(pid: int) -> list[int]:
    # A child belongs to the thread that has made it.
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(_PROC / str(pid) / "task"):  # noqa: PTH208 - a third of the time of Path.iterdir
            with contextlib.suppress(OSError):
                found += map(int, (_PROC / str(pid) / "task" / thread / "children").read_text().split())
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((_PROC / str(pid) / "statm").read_text().split()[_RESIDENT]) * resource.getpagesize()
    return 0


def _share(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)

"""The memory of a process that runs one task after another.

The limit counts what the process takes beyond what it has when the task starts, which are mostly the imported modules.
It is the kernel's limit on private, writable memory (RLIMIT_DATA, Linux 4.7), so a task that reaches it gets a
`MemoryError` where it asks for more; unlike RLIMIT_AS it does not count mapped files and libraries.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_DATA: Final = 5
"""The field of statm with the pages of data and stack (proc_pid_statm(5))."""


@contextlib.contextmanager
def limited(memory: int | None) -> Iterator[None]:
    """Let this process take no more than `memory` bytes of further memory meanwhile. None is no limit."""
    if memory is None or not _STATM.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    taken = int(_STATM.read_text().split()[_DATA]) * resource.getpagesize()
    wanted = taken + memory if before[1] == resource.RLIM_INFINITY else min(taken + memory, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def mebibytes(count: int) -> str:
    """`count` bytes for people."""
    return f"{count / (1024 * 1024):,.0f} MiB"

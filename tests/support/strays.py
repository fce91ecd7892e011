"""Finds what a test left behind: child processes and threads that keep the interpreter alive."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Set
from pathlib import Path

from deploy.local.processes import descendants, parent

# Python's own: started once on first use, and meant to stay.
_PYTHONS_OWN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def children() -> dict[int, str]:
    """Return our child processes and theirs with their command lines; one nobody has waited for counts too."""
    found = {}
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            # What the fork server forks looks like it, but is not our child.
            if parent(pid) != os.getpid() or not any(own in command for own in _PYTHONS_OWN):
                found[pid] = command[:200] or "(ended, but nobody waited for it)"
    return found


def threads() -> dict[int, str]:
    """Return the threads that would keep the interpreter from ending."""
    return {id(thread): thread.name for thread in threading.enumerate() if not thread.daemon}


def left_over(before: Set[int], allowed: Callable[[], Set[int]], look: Callable[[], dict[int, str]]) -> dict[int, str]:
    """Return what `look` shows beyond `before` and `allowed()`, giving it 5 s to end."""
    deadline = time.monotonic() + 5.0
    while stray := {key: name for key, name in look().items() if key not in before and key not in allowed()}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return stray

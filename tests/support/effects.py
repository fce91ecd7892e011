"""The effect log: what task functions really did, written by themselves.

One line for each start and each end of a run, appended with one `write` to a file opened with O_APPEND, so that many
processes write at once and a SIGKILL a microsecond later does not take it back.
"""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

VARIABLE = "WARREN_TEST_EFFECTS"
"""The environment variable that names the log for task functions."""


class Effect(msgspec.Struct):
    """One line.

    Attributes:
        key: the test's own name of the task; task functions do not know their task ids.
        what: `start` or `end`.
        pid: the process that ran it.
        at: when, seconds since the epoch.
        value: what came out of it, where the task function says so.
    """

    key: int
    what: str
    pid: int
    at: float = 0.0
    value: Any = None


def record(key: int, what: str = "start", value: Any = None) -> None:
    """Append one line; called by task functions."""
    line = msgspec.json.encode(Effect(key, what, os.getpid(), time.time(), value)) + b"\n"
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


class Effects:
    """The log as the test reads it.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Effect]:
        """Return what has been written so far."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=Effect) for line in lines]

    def runs(self) -> Counter[int]:
        """Return how often each key was started."""
        return Counter(effect.key for effect in self.all() if effect.what == "start")

"""A client process that a test kills: submits on and on, and writes down each confirm the moment it has it.

python -m tests.system.submitter URL NAMESPACE JOURNAL FIRST_KEY

One line of JSON for each confirmed `submit_many` goes to the file JOURNAL: ids and keys. It never ends by itself.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from common import Client, Handle
from common.ids import new_task_id
from tests.system.workloads import squares

CHUNK = 10
UNFINISHED = 10  # calls; a client that is told nothing comes to a halt
PAUSE = 0.05  # seconds between two calls: a flow, not a flood


class Confirmed(msgspec.Struct):
    """One line: the ids of one confirmed call, and their keys in the same order."""

    ids: list[str]
    keys: list[int]


def main(url: str, namespace: str, journal: str, first: int) -> None:
    """Submit until somebody ends this process."""
    unfinished: deque[list[Handle[Any]]] = deque()
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with Client(url, namespace=namespace, heartbeat=5) as client:
        for start in itertools.count(first, CHUNK):
            keys = list(range(start, start + CHUNK))
            ids = [new_task_id() for _ in keys]
            calls = [squares(key)[0].options(task_id=task_id) for key, task_id in zip(keys, ids, strict=True)]
            handles = client.submit_many(calls)
            os.write(file, msgspec.json.encode(Confirmed([handle.id for handle in handles], keys)) + b"\n")
            unfinished.append(handles)
            if len(unfinished) >= UNFINISHED:
                for handle in unfinished.popleft():
                    handle.result()
            time.sleep(PAUSE)


@contextlib.contextmanager
def submitter_process(url: str, namespace: str, journal: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run this module; the process is dead at the end of the block."""
    command = [sys.executable, "-m", "tests.system.submitter", url, namespace, str(journal), "0"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        try:
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))

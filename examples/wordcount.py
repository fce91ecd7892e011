"""Counts words: the task function of `make demo`.

    warren worker examples.wordcount
    warren submit count_words README.md --wait
"""

import os
import re
import time
from collections import Counter
from pathlib import Path

from common import task

MAX_WORDS = 20_000
"""Different words of one file at most: with the longest word they stay below a worker's limit for results (1 MiB)."""

_WORD = re.compile(r"[a-z]{2,32}")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of 2 to 32 of the letters a to z."""
    return _WORD.findall(text.lower())


@task
def count_words(path: str, journal: str | None = None, pause: float = 0.0) -> dict[str, int]:
    """Count the words of one file, as the worker's user finds it on the worker's machine.

    Args:
        path: the file; bytes that are not UTF-8 count as no letters.
        journal: a file to which a line, process id and path, is appended at each run of the function. Those are the
            runs that really happened, whatever the scheduler knows of them.
        pause: seconds to sleep, so that people can watch.
    Returns:
        how often each word occurs, the frequent ones first.
    Raises:
        OSError: the file cannot be read.
    """
    if journal is not None:
        _append(journal, f"{os.getpid()} {path}\n")
    time.sleep(pause)
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return dict(Counter(words(text)).most_common(MAX_WORDS))


def _append(path: str, line: str) -> None:
    """Append one line in one write, which O_APPEND keeps whole even when several processes do so at once."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)

"""The demo's task function: `count_words` of the examples, journalled and slowed down."""

import os
import time

from common import task
from examples.wordcount import count_words


@task(name="demo.count")
def watched_count(path: str, journal: str, pause: float) -> dict[str, int]:
    """Count the words of one file.

    Args:
        path: the file.
        journal: where each run leaves a line, process id and path, when it begins. Those are the runs that really
            took place, whatever scheduler and store know of them.
        pause: seconds to sleep, so that people can watch.
    """
    _append(journal, f"{os.getpid()} {path}\n")
    time.sleep(pause)
    return count_words(path)


def _append(path: str, line: str) -> None:
    """Append a line with one write, which O_APPEND keeps in one piece among those of other processes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)

"""Counts words: the task function of `make demo`.

warren worker examples.wordcount
warren submit count_words README.md --wait
"""

import re
from collections import Counter
from pathlib import Path

from common import task

MAX_WORDS = 20_000
"""Different words of one file at most: even of the longest they stay below a worker's limit for results (1 MiB)."""

_WORD = re.compile(r"[a-z]{2,32}")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of 2 to 32 of the letters a to z."""
    return _WORD.findall(text.lower())


@task
def count_words(path: str) -> dict[str, int]:
    """Count the words of one file, which has to be on the worker's machine.

    Args:
        path: the file; bytes that are not UTF-8 count as no letters.
    Returns:
        how often each word occurs, the frequent ones first.
    Raises:
        OSError: the file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return dict(Counter(words(text)).most_common(MAX_WORDS))

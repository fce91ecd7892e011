"""The demo's input: the Python files of the standard library on this machine, and a plain count of their words."""

import os
import sysconfig
from collections import Counter
from pathlib import Path

from examples.wordcount import words

_NOT_THE_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
_ITS_TESTS = {"test", "tests", "idle_test"}  # more than half of it where they are installed; Debian leaves them out


def library() -> Path:
    """Return the folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def python_files(folder: Path) -> list[Path]:
    """Return the readable Python files of a standard library, without its tests and what was installed into it."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _NOT_THE_LIBRARY - _ITS_TESTS)
        paths = [Path(root, name) for name in sorted(names) if name.endswith(".py")]
        found += [path for path in paths if path.is_file() and os.access(path, os.R_OK)]
    return found


def plain_count(files: list[Path]) -> Counter[str]:
    """Count the words of all files here and now, one after the other."""
    total: Counter[str] = Counter()
    for file in files:
        total.update(words(file.read_bytes().decode(errors="replace")))
    return total

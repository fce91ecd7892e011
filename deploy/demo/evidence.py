"""What the parts themselves say about the job afterwards: the store, the journal of the task function, the metrics."""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from common.states import TERMINAL


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """What the store holds.

    Args:
        states: the state of each task, by id. The store has one row for an id, and a row one state.
        again: how many tasks were dispatched anew, since they were with a worker that died.
    """

    states: dict[str, str]
    again: int

    def unfinished(self, ids: Iterable[str]) -> list[str]:
        """Return those of `ids` that are in no terminal state, or not in the store at all."""
        return [task_id for task_id in ids if self.states.get(task_id) not in TERMINAL]


@dataclass(frozen=True, slots=True)
class Runs:
    """What the task function itself has noted.

    Args:
        total: how often it ran.
        files: for how many files it ran.
        repeated: the files for which it ran more than once.
        by_victim: those of them for which one run was in the killed process.
    """

    total: int
    files: int
    repeated: int
    by_victim: int


def read_store(database: Path) -> StoreRecord:
    """Read a scheduler's SQLite file, which may be in use."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT id, state, attempt FROM tasks").fetchall()
    return StoreRecord({task_id: state for task_id, state, _ in rows}, sum(attempt > 1 for *_, attempt in rows))


def read_journal(journal: Path, victim: int) -> Runs:
    """Read the lines that the task function has left.

    Args:
        journal: the file.
        victim: the process id of the killed worker.
    """
    lines = [line.partition(" ") for line in journal.read_text().splitlines()]
    runs = Counter(path for _, _, path in lines)
    repeated = {path for path, count in runs.items() if count > 1}
    cut_short = {path for pid, _, path in lines if pid == str(victim)}
    return Runs(len(lines), len(runs), len(repeated), len(repeated & cut_short))


def samples(exposition: str, names: Iterable[str]) -> list[str]:
    """Return the lines of these metrics, as they were scraped."""
    wanted = tuple(names)
    return [line for line in exposition.splitlines() if line.startswith(wanted)]

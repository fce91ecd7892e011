"""The scheduler's database as a test reads it: from outside, read-only, apart from one trigger that keeps a diary."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TERMINAL = ("succeeded", "failed", "cancelled", "expired")

_DIARY = f"""
CREATE TABLE test_diary (id TEXT, was TEXT, became TEXT, outcome TEXT);
CREATE TRIGGER test_diary_of_updates AFTER UPDATE ON tasks
WHEN new.state IN {TERMINAL} OR old.state IN {TERMINAL}
BEGIN
    INSERT INTO test_diary
    SELECT new.id, old.state, new.state, coalesce(new.result, new.error)
    WHERE old.state <> new.state OR old.result IS NOT new.result OR old.error IS NOT new.error;
END;
CREATE TRIGGER test_diary_of_deletes AFTER DELETE ON tasks
BEGIN INSERT INTO test_diary VALUES (old.id, old.state, 'deleted', NULL); END;
"""


class StoredTask(NamedTuple):
    """One row of the table `tasks`."""

    id: str
    task: str
    state: str
    attempt: int
    crashes: int
    result: str | None
    error: str | None

    @property
    def outcome(self) -> Any:
        """The value of a success; of a failure the error's kind with a `!` before it."""
        if self.state == "succeeded":
            return json.loads(self.result or "null")
        if self.state == "failed":
            return f"!{json.loads(self.error or '{}').get('kind')}"
        return self.state


class StoreFile:
    """A scheduler's SQLite database.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def url(self) -> str:
        """What the scheduler is given as `database_url`."""
        return f"sqlite:///{self.path}"

    def keep_diary(self) -> None:
        """Write down from now on each change into, out of or within a terminal state; the schema must be there."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=10.0)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'test_diary'").fetchall():
                connection.executescript(_DIARY)

    def tasks(self) -> dict[str, StoredTask]:
        """Return every task by its id."""
        query = "SELECT id, task, state, attempt, crashes, result, error FROM tasks"
        with self._read() as connection:
            return {row[0]: StoredTask(*row) for row in connection.execute(query)}

    def endings(self) -> dict[str, list[str]]:
        """Return by task id what the diary says: one entry for each change of or within a terminal state."""
        found: dict[str, list[str]] = {}
        with self._read() as connection:
            for task_id, was, became in connection.execute("SELECT id, was, became FROM test_diary"):
                found.setdefault(task_id, []).append(f"{was} -> {became}")
        return found

    def unfinished(self) -> dict[str, int]:
        """Return how many tasks are in each state that is not terminal."""
        query = f"SELECT state, count(*) FROM tasks WHERE state NOT IN {TERMINAL} GROUP BY state"
        with self._read() as connection:
            return dict(connection.execute(query).fetchall())

    @contextlib.contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10.0)
        try:
            yield connection
        finally:
            connection.close()

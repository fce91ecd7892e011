"""A database with a past: finished tasks by the hundred thousand, written without running them."""

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

from common.telemetry import Telemetry
from scheduler_service.storage.store import Store

_INSERT = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO tasks (id, task, queue, priority, state, args, kwargs, owner, submitted_at, attempt, lease, isolation,
                   crashes, held, dispatch, finished_at, due_at, result, ttl, failures, aliased)
SELECT printf('%s-%012d', :prefix, n), 'square', 'default', 4, :state, '[1]', '{}', 'guest', :submitted_at, 1, '',
       'none', 0, 0, 0, :finished_at, :due_at, '1', :ttl, 0, 0
FROM numbers
"""
LONG_AGO = 86_400.0


class History:
    """A scheduler's SQLite database before the scheduler starts.

    Args:
        path: the file, which is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        asyncio.run(self._make())

    async def _make(self) -> None:
        store = Store(f"sqlite:///{self.path}", telemetry=Telemetry())
        await store.start()
        await store.stop()

    def finished(self, prefix: str, count: int, *, ago: float = LONG_AGO, ttl: float | None = None) -> None:
        """Add tasks that succeeded so many seconds ago.

        Args:
            prefix: of their ids.
            count: how many.
            ago: seconds; below zero for what will be young for a while.
            ttl: for how long they said that they are to be kept, seconds.
        """
        self._add(prefix, count, state="succeeded", finished_at=time.time() - ago, due_at=None, ttl=ttl)

    def scheduled(self, prefix: str, count: int) -> None:
        """Add tasks that are due in a year."""
        self._add(prefix, count, state="scheduled", finished_at=None, due_at=time.time() + 366 * 86_400.0, ttl=None)

    def _add(self, prefix: str, count: int, **values: object) -> None:
        given = {"prefix": prefix, "count": count, "submitted_at": time.time() - 2 * LONG_AGO, **values}
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(_INSERT, given)


def kept(path: Path) -> dict[str, int]:
    """How many tasks of each prefix are in the database."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as connection:
        query = "SELECT substr(id, 1, instr(id, '-') - 1), count(*) FROM tasks GROUP BY 1"
        return dict(connection.execute(query).fetchall())

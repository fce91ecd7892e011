"""Walking over tasks from the newest to the oldest, a bounded number of rows at a time."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from sqlalchemy import Connection, func, select, text

from scheduler_service.storage.schema import tasks

SCAN: Final = 2000
"""Rows that are read in one transaction: a few milliseconds, in which the hot path waits."""


class Glimpse(Struct, gc=False):
    """What of a task decides whether it is looked for."""

    seq: int
    id: str
    state: str
    name: str
    queue: str
    owner: str
    submitted_at: float
    options: str | None


def beyond(connection: Connection) -> int:
    """A place before which every task is that there is now."""
    return 1 + (connection.execute(select(func.max(tasks.c.seq))).scalar() or 0)


def walk(connection: Connection, before: int | None, *, failed: bool = False) -> list[Glimpse]:
    """Up to `SCAN` tasks stored before the one at `before` (None: the newest), the newest first.

    Args:
        connection: in a transaction.
        before: a place in the store order.
        failed: only failed ones, by their index.
    """
    statement = (
        select(
            tasks.c.seq,
            tasks.c.id,
            tasks.c.state,
            tasks.c.task,
            tasks.c.queue,
            tasks.c.owner,
            tasks.c.submitted_at,
            tasks.c.options,
        )
        .order_by(tasks.c.seq.desc())
        .limit(SCAN)
    )
    if failed:
        statement = statement.where(text("state = 'failed'"))
    if before is not None:
        statement = statement.where(tasks.c.seq < before)
    return [Glimpse(*row) for row in connection.execute(statement)]

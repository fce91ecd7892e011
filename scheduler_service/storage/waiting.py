"""Statements on tasks that wait for their time: to be due, or to be over."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select, text

from scheduler_service.storage.schema import EXPIRING, tasks
from scheduler_service.storage.tasks import CORE, StoredTask, stored

_scheduled = text("state = 'scheduled'")
_expiring = text(EXPIRING)
_due = (
    select(*CORE)
    .where(_scheduled, tasks.c.due_at <= bindparam("now"))
    .order_by(tasks.c.due_at)
    .limit(bindparam("n"))
    .with_for_update(skip_locked=True)
)
_next_due = select(func.min(tasks.c.due_at)).where(_scheduled)
_over = (
    select(*CORE)
    .where(_expiring, tasks.c.expires_at <= bindparam("now"))
    .order_by(tasks.c.expires_at)
    .limit(bindparam("n"))
    .with_for_update(skip_locked=True)
)
_next_over = select(func.min(tasks.c.expires_at)).where(_expiring)


def due(connection: Connection, now: float, limit: int) -> list[StoredTask]:
    """Up to `limit` scheduled tasks whose time has come, the earliest first."""
    return [stored(row) for row in connection.execute(_due, {"now": now, "n": limit})]


def over(connection: Connection, now: float, limit: int) -> list[StoredTask]:
    """Up to `limit` waiting tasks by whose time it is over, the earliest first."""
    return [stored(row) for row in connection.execute(_over, {"now": now, "n": limit})]


def next_moment(connection: Connection) -> float | None:
    """When the next task is due or over, seconds since the epoch, or None."""
    moments = [connection.execute(statement).scalar() for statement in (_next_due, _next_over)]
    return min((moment for moment in moments if moment is not None), default=None)


def scheduled(connection: Connection) -> dict[str, int]:
    """How many tasks are scheduled, for each queue that has any; reads an index of them all."""
    rows = connection.execute(select(tasks.c.queue, func.count()).where(_scheduled).group_by(tasks.c.queue))
    return {row[0]: row[1] for row in rows}

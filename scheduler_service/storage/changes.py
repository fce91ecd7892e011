"""Statements on what operators have changed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from common.administration import Change
from scheduler_service.storage.schema import changes

KEPT: Final = 10_000
"""Changes that are kept, the last ones."""


def record(connection: Connection, change: Change) -> None:
    """Write a change down."""
    written = connection.execute(
        changes.insert(),
        {
            "at": change.at,
            "user": change.user,
            "what": change.what,
            "name": change.name,
            "detail": change.detail,
        },
    )
    (number,) = written.inserted_primary_key or (0,)
    connection.execute(changes.delete().where(changes.c.seq <= number - KEPT))


def before(connection: Connection, place: int | None, limit: int) -> list[tuple[int, Change]]:
    """Up to `limit` changes (place, change) before `place` (None: the last), the newest first."""
    statement = select(changes).order_by(changes.c.seq.desc()).limit(limit)
    if place is not None:
        statement = statement.where(changes.c.seq < place)
    return [
        (row.seq, Change(row.at, row.user, row.what, row.name, row.detail)) for row in connection.execute(statement)
    ]

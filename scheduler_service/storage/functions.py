"""Statements on the task functions that workers have named."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select, text

from scheduler_service.storage.schema import functions

_hear = text(
    "INSERT INTO functions (name, heard_at) VALUES (:name, :now)"
    " ON CONFLICT (name) DO UPDATE SET heard_at = excluded.heard_at"
)


def known_functions(connection: Connection, since: float) -> set[str]:
    """The task functions that a worker has named since then (seconds since the epoch); older ones are forgotten."""
    connection.execute(functions.delete().where(functions.c.heard_at < since))
    return {row[0] for row in connection.execute(select(functions.c.name))}


def hear_functions(connection: Connection, names: Iterable[str], now: float) -> None:
    """Workers name these task functions now."""
    if rows := [{"name": name, "now": now} for name in sorted(names)]:
        connection.execute(_hear, rows)

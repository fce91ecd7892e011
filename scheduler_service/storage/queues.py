"""Statements on the names of the work queues that were ever made."""

from __future__ import annotations

from sqlalchemy import Connection, select

from scheduler_service.storage.schema import queues


def add(connection: Connection, name: str) -> None:
    """Remember a work queue."""
    if connection.execute(select(queues.c.name).where(queues.c.name == name)).first() is None:
        connection.execute(queues.insert(), {"name": name})


def names(connection: Connection) -> set[str]:
    """Every work queue that was ever made."""
    return {row[0] for row in connection.execute(select(queues.c.name))}

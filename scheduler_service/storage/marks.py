"""Statements on marks: numbers that outlive the process, by name."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from scheduler_service.storage.schema import marks

CONFIRMED: Final = "dispatch.confirmed"
"""Every dispatch up to this number is in the broker, or has been answered."""


def read(connection: Connection, name: str) -> int:
    """The mark's value; 0 when it was never set."""
    value: int | None = connection.execute(select(marks.c.value).where(marks.c.name == name)).scalar()
    return value or 0


def write(connection: Connection, name: str, value: int) -> None:
    """Set the mark."""
    if connection.execute(marks.update().where(marks.c.name == name).values(value=value)).rowcount == 0:
        connection.execute(marks.insert().values(name=name, value=value))

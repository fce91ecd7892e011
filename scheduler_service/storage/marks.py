"""Statements on marks: numbers that outlive the process, by name. Their rows are made with the tables."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, select

from scheduler_service.storage.prepared import Prepared
from scheduler_service.storage.schema import marks

CONFIRMED: Final = "dispatch.confirmed"
"""Every dispatch up to this number is in the broker, or has been answered."""


def read(connection: Connection, name: str) -> int:
    """The mark's value."""
    value: int = connection.execute(select(marks.c.value).where(marks.c.name == name)).scalar_one()
    return value


_write = Prepared(
    marks.update().where(marks.c.name == bindparam("b_name")).values(value=bindparam("value")), ("value", "b_name")
)


def write(connection: Connection, name: str, value: int) -> None:
    """Set the mark."""
    _write.run(connection, [(value, name)])

"""Statements compiled once, run with rows of plain values.

SQLAlchemy builds a dictionary of parameters for every row of an ``executemany``, which costs as much as SQLite's own
work. The hot statements hand their rows to the driver as tuples instead; the SQL still comes from the dialect's
compiler, so it stays one statement for every database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Insert, Update


class Prepared:
    """One INSERT or UPDATE for many rows.

    Args:
        statement: the statement; its parameters are exactly `keys`.
        keys: the names of the parameters, in the order in which rows give them.
    """

    def __init__(self, statement: Insert | Update, keys: Sequence[str]) -> None:
        self._statement = statement
        self._keys = tuple(keys)
        self._compiled: dict[str, tuple[str, tuple[int, ...] | None] | None] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run it for each of `rows`; returns how many rows of the table were touched."""
        if not rows:
            return 0
        name = connection.dialect.name
        if name not in self._compiled:
            self._compiled[name] = self._compile(connection)
        compiled = self._compiled[name]
        if compiled is None:
            return connection.execute(
                self._statement, [dict(zip(self._keys, row, strict=True)) for row in rows]
            ).rowcount
        sql, order = compiled
        if order is not None:
            rows = [tuple(row[at] for at in order) for row in rows]
        return connection.exec_driver_sql(sql, list(rows)).rowcount

    def _compile(self, connection: Connection) -> tuple[str, tuple[int, ...] | None] | None:
        is_insert = isinstance(self._statement, Insert)
        compiled: Any = self._statement.compile(
            dialect=connection.dialect, column_keys=list(self._keys) if is_insert else None
        )
        if compiled.positiontup is None:
            return None
        order = tuple(self._keys.index(key) for key in compiled.positiontup)
        return str(compiled), None if order == tuple(range(len(self._keys))) else order

"""Statements compiled once, run with rows of plain values.

SQLAlchemy builds a dictionary of parameters for every row of an ``executemany``, which costs as much as SQLite's own
work. The hot statements hand their rows to the driver as tuples instead; the SQL still comes from the dialect's
compiler, so it stays one statement for every database. The same holds for a look-up by a list of ids: as an array in
one parameter it is one statement whatever the length, and is prepared once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Insert,
    Select,
    Update,
    bindparam,
    func,
    literal_column,
    select,
)


class Prepared:
    """One INSERT, UPDATE or DELETE for many rows.

    Args:
        statement: the statement; its parameters are exactly `keys`.
        keys: the names of the parameters, in the order in which rows give them.
    """

    def __init__(self, statement: Insert | Update | Delete, keys: Sequence[str]) -> None:
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


class LookUp:
    """One SELECT of rows whose column is in a list.

    Args:
        statement: the statement without that condition, and without parameters of its own.
        column: the column.
    """

    def __init__(self, statement: Select[Any], column: ColumnElement[Any]) -> None:
        self._statement = statement
        self._column = column
        self._compiled: dict[str, str] = {}

    def run(self, connection: Connection, values: Sequence[str] | Sequence[int]) -> Iterable[Sequence[Any]]:
        """The rows whose column is one of `values`."""
        name = connection.dialect.name
        if name != "sqlite":
            return connection.execute(
                self._statement.where(self._column == func.any(bindparam("values"))), {"values": list(values)}
            )
        sql = self._compiled.get(name)
        if sql is None:
            listed: Select[Any] = select(literal_column("value")).select_from(func.json_each(bindparam("listed")))
            statement = self._statement.where(self._column.in_(listed))
            sql = self._compiled[name] = str(statement.compile(dialect=connection.dialect))
        return connection.exec_driver_sql(sql, (msgspec.json.encode(values).decode(),)).all()

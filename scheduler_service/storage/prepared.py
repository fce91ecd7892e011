"""Statements compiled once, run with rows of plain values.

SQLAlchemy builds a dictionary of parameters for every row of an ``executemany``, which costs as much as SQLite's own
work. The hot statements hand their rows to the driver as tuples instead; the SQL still comes from the dialect's
compiler, so it stays one statement for every database. The same holds for a look-up by a list of ids: as an array in
one parameter it is one statement whatever the length, and is prepared once; so is an update of many rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Delete,
    FromClause,
    Insert,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.sql.dml import ReturningUpdate, UpdateBase
from sqlalchemy.types import TypeEngine


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


class Field(Protocol):
    """Names a value of a row that `Change` or `Fill` is given."""

    def __call__(self, at: int, kind: type[TypeEngine[Any]]) -> ColumnElement[Any]:
        """The value at `at`, counted from 0, as this kind of column."""


class _ByRows(ABC):
    """A statement over rows that travel as one parameter.

    They are one step of the database: SQLite takes it without Python's lock, so that the event loop runs meanwhile,
    where an ``executemany`` takes and gives back the lock for each row.
    """

    def __init__(self) -> None:
        self._compiled: Any = None

    @abstractmethod
    def _over(self, rows: FromClause, field: Field) -> UpdateBase:
        """The statement, given the rows and how to name their values."""

    def _execute(self, connection: Connection, rows: str, values: Mapping[str, Any]) -> CursorResult[Any]:
        given = {**values, "rows": rows}
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement(), given)
        if self._compiled is None:
            self._compiled = self.statement_of_sqlite().compile(dialect=connection.dialect)
        return run_compiled(connection, self._compiled, given)

    def statement(self) -> UpdateBase:
        """For PostgreSQL."""
        # Here, because it takes as long to import as the rest of SQLAlchemy.
        from sqlalchemy.dialects.postgresql import JSONB

        each = func.jsonb_array_elements(cast(bindparam("rows"), JSONB)).table_valued(column("value", JSONB)).alias("e")
        return self._over(each, lambda at, kind: cast(each.c.value[at].astext, kind))

    def statement_of_sqlite(self) -> UpdateBase:
        """For SQLite."""
        each = func.json_each(bindparam("rows")).table_valued(column("value", Text)).alias("e")
        return self._over(
            each, lambda at, kind: func.json_extract(each.c.value, literal_column(f"'$[{at}]'"), type_=kind)
        )


class Change(_ByRows):
    """One UPDATE of many rows, each by values of its own, that returns what it has changed.

    Args:
        build: given the `Field` of a row, makes the statement; its other parameters are the same for every row.

    Example:
        >>> rename = Change(
        ...     lambda field: queues.update()
        ...     .where(queues.c.name == field(0, Text))
        ...     .values(name=field(1, Text))
        ...     .returning(queues.c.name)
        ... )
        >>> rename.run(connection, rows_as_json([("mail", "email")]), {})
    """

    def __init__(self, build: Callable[[Field], ReturningUpdate[Any]]) -> None:
        super().__init__()
        self._build = build

    def run(self, connection: Connection, rows: str, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Change the rows.

        Args:
            connection: in a transaction.
            rows: an array of arrays, JSON (`rows_as_json`); no row of the table fits two of them.
            values: the other parameters, by name.

        Returns:
            What the statement returns of each changed row, in no order.
        """
        return self._execute(connection, rows, values).all()

    def _over(self, rows: FromClause, field: Field) -> UpdateBase:
        return self._build(field)


class Fill(_ByRows):
    """One INSERT of many rows, in order, that differ in some columns only.

    Args:
        table: the table.
        columns: given the `Field` of a row, says what is in each column; parameters are the same for every row.
    """

    def __init__(self, table: Table, columns: Callable[[Field], Mapping[str, ColumnElement[Any]]]) -> None:
        super().__init__()
        self._table = table
        self._columns = columns

    def run(self, connection: Connection, rows: str, values: Mapping[str, Any]) -> None:
        """Insert the rows; the arguments are those of `Change.run`."""
        self._execute(connection, rows, values)

    def _over(self, rows: FromClause, field: Field) -> UpdateBase:
        columns = self._columns(field)
        return self._table.insert().from_select(list(columns), select(*columns.values()).select_from(rows))


def run_compiled(connection: Connection, compiled: Any, values: Mapping[str, Any]) -> CursorResult[Any]:
    """Run what SQLite's dialect has compiled, with these parameters and those that the statement brings along."""
    given = compiled.construct_params(values)
    return connection.exec_driver_sql(str(compiled), tuple(given[name] for name in compiled.positiontup))


def rows_as_json(rows: Sequence[tuple[Any, ...]] | Sequence[Struct]) -> str:
    """Rows as `Change` takes them; a struct that is like an array is one, too."""
    return msgspec.json.encode(rows).decode()


def keeps_text(rows: str) -> bool:
    """Whether SQLite gives back all text in these rows: it cuts text off at a NUL that was written in JSON."""
    return "\\u0000" not in rows

"""Bringing the database's schema up to date.

A new database is made from the tables of `schema`, one with an older schema is migrated by Alembic. Both ways lead to
the same (tests/integration/test_store_sqlite.py), and only the second loads Alembic, which is a third of the time that
a scheduler takes to start.
"""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Column, Connection, Engine, MetaData, PrimaryKeyConstraint, String, Table, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from common.errors import StoreUnavailable
from scheduler_service.storage import marks, schema

log = logging.getLogger(__name__)

_versions: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def migrate(engine: Engine) -> str:
    """Give the database the newest schema that this program knows.

    Returns:
        The revision that the database has now.

    Raises:
        StoreOutOfDate: the database was written by a newer Warren.
        StoreUnavailable: the database cannot be opened or written.
    """
    try:
        with engine.begin() as connection:
            tables = inspect(connection).get_table_names()
            if not tables:
                _make(connection)
            elif _versions.name in tables and connection.scalar(select(_versions)) == schema.REVISION:
                return schema.REVISION
            else:
                from scheduler_service.storage.upgrade import upgrade  # loads Alembic

                upgrade(connection)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"cannot prepare the database: {error}") from error
    log.info("the schema is up to date", extra={"revision": schema.REVISION})
    return schema.REVISION


def _make(connection: Connection) -> None:
    schema.metadata.create_all(connection)
    _versions.create(connection)
    connection.execute(_versions.insert(), {"version_num": schema.REVISION})
    connection.execute(schema.marks.insert(), {"name": marks.CONFIRMED, "value": 0})

"""Migrating an older schema with Alembic; the migrations ship inside the package."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from common.errors import StoreOutOfDate


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the migrations that are missing up to `revision`, within the transaction of `connection`.

    Raises:
        StoreOutOfDate: the database was written by a newer Warren.
    """
    config = Config()
    config.set_main_option("script_location", "scheduler_service:storage/migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        before = MigrationContext.configure(connection).get_current_revision()
        raise StoreOutOfDate(
            f"the database is at revision {before}, which this program does not know: it was written by a newer "
            "Warren; use that one, or restore an older copy"
        ) from error

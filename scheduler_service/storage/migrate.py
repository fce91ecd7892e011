"""Bringing the database's schema up to date with Alembic; the migrations ship inside the package."""

from __future__ import annotations

import logging

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from common.errors import StoreOutOfDate, StoreUnavailable

log = logging.getLogger(__name__)


def migrate(engine: Engine) -> str:
    """Upgrade the schema to the newest revision that this program knows.

    Returns:
        The revision that the database has now.

    Raises:
        StoreOutOfDate: the database was written by a newer Warren.
        StoreUnavailable: the database cannot be opened or written.
    """
    config = Config()
    config.set_main_option("script_location", "scheduler_service:storage/migrations")
    config.set_main_option("path_separator", "os")
    head = ScriptDirectory.from_config(config).get_current_head() or ""
    try:
        with engine.begin() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            if before == head:
                return head
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreOutOfDate(
            f"the database is at revision {before}, which this program does not know: it was written by a newer "
            "Warren; use that one, or restore an older copy"
        ) from error
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"cannot prepare the database: {error}") from error
    log.info("the schema is up to date", extra={"revision": head})
    return head

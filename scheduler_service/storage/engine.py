"""Opening the database.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit that returned survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). One process and one write connection: SQLite below 3.51.3
can corrupt a WAL when two connections write and checkpoint at once. A lock file beside the database keeps a second
scheduler on this machine away.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from common.errors import SettingsError, StoreUnavailable

log = logging.getLogger(__name__)

OLDEST = (3, 35, 0)
"""The first SQLite that knows UPDATE ... FROM ... RETURNING."""
BUSY_SECONDS = 2.0
"""How long one statement waits for another process's lock before the transaction is given up and tried again."""


def open_engine(url: str) -> Engine:
    """An engine for `url`, with SQLite set up for durability.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``; PostgreSQL comes as a second engine.

    Raises:
        SettingsError: the URL names another database, or this Python has a SQLite that is too old.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError([f"database_url: {url!r} is no URL; write sqlite:///file.db"]) from None
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError([f"database_url: {parsed.render_as_string()!r}: only sqlite:/// is supported so far"])
    if not parsed.database or parsed.database == ":memory:":
        raise SettingsError(["database_url: the database has to be a file, or nothing would survive a restart"])
    folder = Path(parsed.database).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError([f"database_url: the folder {str(folder)!r} cannot be made: {error.strerror}"]) from error
    if sqlite3.sqlite_version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise SettingsError(
            [f"database_url: this Python has SQLite {sqlite3.sqlite_version}, and the store needs {needed} or later"]
        )
    if sqlite3.sqlite_version_info < (3, 51, 3):
        log.debug("this SQLite needs a single writer", extra={"sqlite": sqlite3.sqlite_version})
    engine = create_engine(
        parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, record: object) -> None:
    # Transactions are begun by `_begin`; the driver's own implicit ones would start too late to hold the lock.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-65536",
        "wal_autocheckpoint=4000",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class LockFile:
    """An advisory lock on ``<database>.lock``, held while the process lives.

    Args:
        url: the database's URL.
    """

    def __init__(self, url: str) -> None:
        self._path = Path(f"{make_url(url).database}.lock")
        self._file: int | None = None

    def take(self) -> None:
        """Take the lock.

        Raises:
            StoreUnavailable: another process holds it.
        """
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError([f"database_url: {str(self._path)!r} cannot be written: {error.strerror}"]) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise StoreUnavailable(
                f"another scheduler uses this database ({self._path} is locked): stop it, or give this one a "
                "database of its own"
            ) from error
        self._file = file

    def release(self) -> None:
        """Give the lock up; nothing happens when it is not held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class OpenedFile:
    """The database file as it was opened, to notice that another one, or none, is in its place.

    SQLite goes on writing to a file that was deleted: nobody would see that until the next start, when all is lost.

    Args:
        url: the database's URL.
    """

    def __init__(self, url: str) -> None:
        self._path = Path(str(make_url(url).database)).absolute()
        self._identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """The file that is there now is the right one."""
        self._identity = self._look()

    def fault(self) -> str:
        """Why nothing may be written; empty when the file is where it was."""
        if self._identity is None or self._look() == self._identity:
            return ""
        return (
            f"the database {str(self._path)!r} was deleted, or replaced by another file: put back the one that was "
            f"there (as long as this process lives it is one of /proc/{os.getpid()}/fd), or start the scheduler again "
            "with the one that is there now"
        )

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

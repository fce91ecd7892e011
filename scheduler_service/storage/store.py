"""The store's thread: transactions are plain functions, and those that meet share one commit.

A function gets the open connection and whatever it needs, and returns what its caller wants to know; it keeps no
state, because it may be run twice: when one of a group fails, the group is rolled back and each is run alone, so that
one bad row spoils no other's commit.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from common.errors import StoreConflict, StoreError, StoreRefused, StoreUnavailable
from common.failpoints import hit
from common.telemetry import Telemetry
from scheduler_service.events import StoreCommitted, StoreFailed
from scheduler_service.storage.engine import LockFile, OpenedFile, open_engine
from scheduler_service.storage.migrate import migrate

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

GROUP = 32
"""At most this many functions share a commit."""
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
GIVEN_UP = 30.0
"""Seconds after which a transaction that failed and was not tried again is forgotten."""


class _Job:
    __slots__ = ("error", "function", "future", "name", "result")

    def __init__(self, name: str, function: Callable[[Connection], Any], future: asyncio.Future[Any]) -> None:
        self.name = name
        self.function = function
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None


class Store:
    """Runs transactions in a thread of its own.

    Args:
        url: the database's URL.
        telemetry: where `StoreCommitted` and `StoreFailed` go.
        commit_delay: seconds added to each commit, to measure with a slow disk.
    """

    def __init__(self, url: str, *, telemetry: Telemetry, commit_delay: float = 0.0) -> None:
        self._url = url
        self._telemetry = telemetry
        self._commit_delay = commit_delay
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._lock = LockFile(url)
        self._file = OpenedFile(url)
        self._failed: dict[str, tuple[float, str]] = {}
        self.pending = 0
        """How many transactions have been asked for and not answered."""

    @property
    def failure(self) -> str:
        """Why transactions could not be committed; empty when all those that had failed could be.

        One that only reads is committed on a full disk too: so the functions that have failed have to succeed again,
        or be given up by whoever wanted them.
        """
        since = time.monotonic() - GIVEN_UP
        return next((reason for at, reason in list(self._failed.values()) if at > since), "")

    async def start(self) -> None:
        """Take the lock, bring the schema up to date and start the thread.

        Raises:
            StoreUnavailable: the database cannot be opened, or another scheduler uses it.
            StoreOutOfDate: its schema is newer than this program.
        """
        if self._thread is not None:
            return
        self._engine = open_engine(self._url)
        self._lock.take()
        try:
            await asyncio.to_thread(migrate, self._engine)
        except BaseException:
            self._lock.release()
            raise
        self._file.remember()
        self._thread = threading.Thread(target=self._work, name="store")
        self._thread.start()

    async def drain(self) -> None:
        """Nothing: those who write drain."""

    async def stop(self) -> None:
        """Finish what was given, then close the database."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._jobs.put(None)
        await asyncio.to_thread(thread.join)
        self._engine.dispose()
        self._lock.release()

    async def run(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(connection, *args)` in a transaction and commit it.

        Raises:
            StoreUnavailable: locked, full or away; nothing was written, the same call may succeed later.
            StoreRefused: the database refused a value; nothing was written, and it will refuse it again.
        """
        if self._thread is None:
            raise StoreUnavailable("the store is stopped")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        name = getattr(function, "__qualname__", "")
        self._jobs.put(_Job(name, lambda connection: function(connection, *args, **kwargs), future))
        self.pending += 1
        try:
            result: T = await future
        finally:
            self.pending -= 1
        return result

    def _work(self) -> None:
        running = True
        while running:
            jobs = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) >= GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            running = job is not None
            if jobs:
                self._run_group(jobs)
                self._deliver(jobs)
        self._close()

    def _run_group(self, jobs: list[_Job]) -> None:
        error = self._transact(jobs)
        if error is not None and len(jobs) > 1 and not isinstance(error, StoreUnavailable):
            for job in jobs:
                job.error = self._transact([job])
        else:
            for job in jobs:
                job.error = error

    def _transact(self, jobs: list[_Job]) -> Exception | None:
        started = time.perf_counter()
        try:
            self._check_place()
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                for job in jobs:
                    job.result = job.function(self._connection)
                if self._commit_delay:
                    time.sleep(self._commit_delay)
                executed = time.perf_counter()
            self._check_place()
            hit("store.after_commit")
        except _Misplaced as error:
            return self._note_unavailable(error, jobs)  # and keep it open: it may be all that is left of the data
        except Exception as error:  # noqa: BLE001 - the boundary of the thread: the caller gets it
            return self._note_failure(error, jobs)
        for job in jobs:
            self._failed.pop(job.name, None)
        now = time.perf_counter()
        self._telemetry.emit(StoreCommitted(len(jobs), now - started, now - executed))
        return None

    def _check_place(self) -> None:
        if fault := self._file.fault():
            raise _Misplaced(fault)

    def _note_failure(self, error: Exception, jobs: list[_Job]) -> Exception:
        mapped = _mapped(error)
        if isinstance(mapped, StoreUnavailable):
            self._note_unavailable(mapped, jobs)
            self._close()
        return mapped

    def _note_unavailable(self, error: StoreUnavailable, jobs: list[_Job]) -> StoreUnavailable:
        if not self.failure:
            log.warning("the store is unavailable", extra={"reason": str(error)})
        now = time.monotonic()
        self._failed |= {job.name: (now, str(error)) for job in jobs}
        self._telemetry.emit(StoreFailed(str(error)))
        return error

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except SQLAlchemyError as error:
                log.debug("closing the database failed", extra={"reason": str(error)})

    def _deliver(self, jobs: list[_Job]) -> None:
        loop = jobs[0].future.get_loop()
        try:
            loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:
            log.debug("the loop ended before the store's answer")


class _Misplaced(StoreUnavailable):
    """The database file is not where it was."""


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


def _mapped(error: Exception) -> Exception:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, OperationalError | InterfaceError | OSError | TimeoutError):
        return StoreUnavailable(f"the database did not take it: {getattr(error, 'orig', None) or error}")
    if isinstance(error, DBAPIError):
        if getattr(error.orig, "sqlite_errorname", "").startswith(_DAMAGED):
            return StoreUnavailable(f"the database is damaged, restore it from a backup: {error.orig}")
        kind = StoreConflict if isinstance(error, IntegrityError) else StoreRefused
        return kind(f"the database refused a value: {error.orig}")
    return error

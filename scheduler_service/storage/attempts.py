"""Statements on the attempts that did not succeed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select

from common.questions import AttemptRecord
from common.wire import ErrorInfo
from scheduler_service.storage.prepared import Prepared
from scheduler_service.storage.schema import attempts

SHOWN = 100
"""The most attempts that are read of one task, the last ones."""

_error = msgspec.json.Decoder(ErrorInfo)


class FailedAttempt(Struct, gc=False):
    """One attempt that did not succeed.

    Attributes:
        task: the task's place in the store (`seq`).
        attempt: its number.
        worker: where it ran, when known.
        error: what happened.
    """

    task: int
    attempt: int
    worker: str | None
    error: ErrorInfo


_insert = Prepared(attempts.insert(), ("task", "attempt", "at", "worker", "error"))


def record(connection: Connection, failed: Sequence[FailedAttempt], now: float) -> None:
    """Write them down."""
    _insert.run(
        connection,
        [(each.task, each.attempt, now, each.worker, msgspec.json.encode(each.error).decode()) for each in failed],
    )


def of(connection: Connection, task: int) -> list[AttemptRecord]:
    """The last failed attempts of one task, in order."""
    rows = connection.execute(
        select(attempts.c.attempt, attempts.c.at, attempts.c.worker, attempts.c.error)
        .where(attempts.c.task == task)
        .order_by(attempts.c.seq.desc())
        .limit(SHOWN)
    ).all()
    return [
        AttemptRecord(number, at, worker or "", None if error is None else _error.decode(error))
        for number, at, worker, error in reversed(rows)
    ]

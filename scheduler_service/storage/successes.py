"""The short way of a success.

Nearly every task is dispatched once and succeeds. What `common.states.transition` says of that is said here once more,
as one statement for a whole batch: a dispatched task whose lease and attempt are those of the outcome has succeeded.
Whatever that does not fit is left as it is, for the rules to judge. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, Integer, Text, bindparam, literal_column

from scheduler_service.storage.prepared import Change, keeps_text, rows_as_json
from scheduler_service.storage.schema import tasks


class Success(Struct, gc=False, array_like=True):
    """What a worker says of a task that succeeded.

    Attributes:
        id, lease, attempt: which dispatch.
        result: JSON.
        worker: who says so.
    """

    id: str
    lease: str
    attempt: int
    result: str
    worker: str


class SucceededTask(Struct, gc=False):
    """A task that has just succeeded.

    Attributes:
        id, name, queue: which.
        reply_to: where its owner is told, or None.
        submitted_at: seconds since the epoch.
        aliased: not 0 when other ids stand for it.
    """

    id: str
    name: str
    queue: str
    reply_to: str | None
    submitted_at: float
    aliased: int


_succeed = Change(
    lambda field: (
        tasks.update()
        .where(
            tasks.c.id == field(0, Text),
            tasks.c.lease == field(1, Text),
            tasks.c.attempt == field(2, Integer),
            tasks.c.state == literal_column("'dispatched'"),
        )
        .values(
            state=literal_column("'succeeded'"),
            result=field(3, Text),
            worker=field(4, Text),
            error=None,
            finished_at=bindparam("now"),
        )
        .returning(tasks.c.id, tasks.c.task, tasks.c.queue, tasks.c.reply_to, tasks.c.submitted_at, tasks.c.aliased)
    )
)


def succeed(connection: Connection, successes: Sequence[Success], now: float) -> list[SucceededTask]:
    """Write the successes that fit, each of another task, and say which they were."""
    rows = rows_as_json(successes)
    if not keeps_text(rows):
        return []
    return [SucceededTask(*row) for row in _succeed.run(connection, rows, {"now": now})]

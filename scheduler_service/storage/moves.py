"""Statements that move waiting tasks to another queue or priority."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func

from common.errors import StoreUnavailable
from scheduler_service.storage.prepared import Prepared
from scheduler_service.storage.schema import tasks
from scheduler_service.storage.tasks import StoredTask


class Moved(Struct, gc=False):
    """A waiting task that is moved to another queue or priority.

    Attributes:
        stored: the task before.
        queue, priority, lane: where it waits now.
    """

    stored: StoredTask
    queue: str
    priority: int
    lane: int


_move = Prepared(
    tasks.update()
    .where(tasks.c.seq == bindparam("b_seq"), tasks.c.state == bindparam("b_state"))
    .values(
        queue=bindparam("queue"),
        priority=bindparam("priority"),
        lane=bindparam("lane"),
        origin=func.coalesce(tasks.c.origin, bindparam("b_origin")),
    ),
    ("queue", "priority", "lane", "b_origin", "b_seq", "b_state"),
)


def move(connection: Connection, moved: Sequence[Moved]) -> None:
    """Write where tasks wait from now on.

    Raises:
        StoreUnavailable: somebody else changed one of them meanwhile; the transaction is given up.
    """
    rows = [
        (
            each.queue,
            each.priority,
            each.lane,
            f"{each.stored.queue} {each.stored.priority}",
            each.stored.seq,
            each.stored.task.state.value,
        )
        for each in moved
    ]
    if _move.run(connection, rows) != len(rows):
        raise StoreUnavailable("a task was changed by somebody else in the meantime")

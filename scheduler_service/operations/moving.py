"""Tasks that move by themselves: due, dispatched, over; and what a starting scheduler has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from common.states import Due, Expired, Rules, transition
from scheduler_service.operations.applying import Ended, end
from scheduler_service.storage import claims, marks, queues, tasks, waiting
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.tasks import Placement, StoredTask


class Claimed(Struct):
    """What was claimed of one queue.

    Attributes:
        tasks: the dispatches.
        ended: those whose turn it was, and whose time is over.
    """

    tasks: list[ClaimedTask]
    ended: list[Ended]


def claim(
    connection: Connection, wanted: Mapping[str, Sequence[Placement]], rules: Rules, mark: int, now: float
) -> dict[str, Claimed]:
    """Dispatch queued tasks: for each queue at most as many as it has placements; what is over ends instead."""
    claimed: dict[str, Claimed] = {}
    for queue, placements in wanted.items():
        taken, over = claims.claim(connection, queue, placements, now)
        ended = end(connection, list(tasks.load(connection, over).values()), Expired(), rules, now) if over else []
        claimed[queue] = Claimed(taken, ended)
    marks.write(connection, marks.CONFIRMED, mark)
    return claimed


class Ripened(Struct):
    """What a look at the clock has moved.

    Attributes:
        due: scheduled tasks that are queued now.
        ended: waiting tasks that have expired.
        next: when something is next to be moved, seconds since the epoch; None when nothing waits.
        full: there is more to be moved now.
    """

    due: list[StoredTask]
    ended: list[Ended]
    next: float | None
    full: bool


def ripen(connection: Connection, rules: Rules, limit: int, now: float) -> Ripened:
    """Queue scheduled tasks whose time has come, and end waiting ones whose time is over; `limit` of each at most."""
    over = waiting.over(connection, now, limit)
    ended = end(connection, over, Expired(), rules, now) if over else []
    ripe = waiting.due(connection, now, limit)
    if ripe:
        tasks.save(connection, [(stored, transition(stored.task, Due(), now, rules).task) for stored in ripe], now)
    full = len(ripe) == limit or len(over) == limit
    return Ripened(ripe, ended, waiting.next_moment(connection), full)


class Outset(Struct):
    """What the store holds when the scheduler starts.

    Attributes:
        dispatched: the tasks that are out.
        confirmed: the mark up to which the broker has confirmed dispatches.
        backlog: queued tasks by queue.
    """

    dispatched: list[ClaimedTask]
    confirmed: int
    backlog: dict[str, int]


def outset(connection: Connection, now: float) -> Outset:
    """Read what a starting scheduler has to know."""
    return Outset(
        claims.dispatched(connection, now), marks.read(connection, marks.CONFIRMED), claims.backlog(connection)
    )


def known_queues(connection: Connection) -> set[str]:
    """Every work queue that was made, or will be for what waits."""
    return queues.names(connection) | claims.backlog(connection).keys() | waiting.scheduled(connection).keys()


def add_queue(connection: Connection, name: str) -> None:
    """Remember a work queue that is about to be made."""
    queues.add(connection, name)


def count_scheduled(connection: Connection) -> dict[str, int]:
    """How many tasks are scheduled, by queue."""
    return waiting.scheduled(connection)


def write_mark(connection: Connection, mark: int) -> None:
    """Note up to which dispatch the broker has confirmed."""
    marks.write(connection, marks.CONFIRMED, mark)

"""Statements about what is dispatched: claiming what is queued, and reading what is out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw, Struct
from sqlalchemy import BigInteger, Connection, Text, bindparam, func, literal_column, or_, select, text

from common.options import NO_POLICY, Policy
from common.wire import Assignment, Isolation
from scheduler_service.storage import lanes
from scheduler_service.storage.prepared import Change, LookUp, rows_as_json
from scheduler_service.storage.schema import tasks
from scheduler_service.storage.tasks import Placement, due_since, policy_in

_ISOLATIONS = {isolation.value: isolation for isolation in Isolation}
SHORTEST: Final = 0.001
"""Seconds; 0 would mean no limit."""


class ClaimedTask(Struct, gc=False):
    """A task that is dispatched, with what a worker needs.

    Attributes:
        assignment: what travels to the worker.
        queue, priority: where it belongs.
        submitted_at: when it was submitted, or due if that was later, seconds since the epoch.
        number: the dispatch number.
        lane: the number of the lane in which it waited.
        key: whose task it is; empty: nobody's in particular.
        worker: the only worker that is to have it; empty: whoever takes it from the work queue.
        express: that worker starts it before what came to it otherwise.
    """

    assignment: Assignment
    queue: str
    priority: int
    submitted_at: float
    number: int
    lane: int = 0
    key: str = ""
    worker: str = ""
    express: bool = False


class Turn(Struct):
    """Whose turn it is in one claim.

    Attributes:
        lanes: numbers of the lanes that share it, in store order across them.
        placements: leases and numbers, one for each task that may go; those left over are unused.
        worker, express: as in `ClaimedTask`.
    """

    lanes: Sequence[int]
    placements: Sequence[Placement]
    worker: str = ""
    express: bool = False


# The lanes have said which are next; a second engine's other scheduler may have taken one of them since.
_claim = Change(
    lambda field: (
        tasks.update()
        .where(
            tasks.c.seq == field(0, BigInteger),
            tasks.c.state == literal_column("'queued'"),
            or_(tasks.c.expires_at.is_(None), tasks.c.expires_at > bindparam("now")),
        )
        .values(
            state=literal_column("'dispatched'"),
            attempt=tasks.c.attempt + literal_column("1"),
            lease=field(1, Text),
            dispatch=field(2, BigInteger),
            target=field(3, Text),
            dispatched_at=bindparam("now"),
        )
        .returning(
            tasks.c.seq,
            tasks.c.id,
            tasks.c.task,
            tasks.c.args,
            tasks.c.kwargs,
            tasks.c.attempt,
            tasks.c.isolation,
            tasks.c.queue,
            tasks.c.priority,
            tasks.c.submitted_at,
            tasks.c.expires_at,
            tasks.c.options,
            tasks.c.key,
        )
    )
)
_still_queued = LookUp(
    select(tasks.c.seq, tasks.c.id)
    .where(tasks.c.state == literal_column("'queued'"))
    .with_for_update(skip_locked=True),
    tasks.c.seq,
)


def claim(
    connection: Connection, turns: Sequence[Turn], now: float
) -> list[tuple[list[ClaimedTask], list[str], dict[int, int]]]:
    """Dispatch the next queued tasks, turn by turn; inside a turn in store order across its lanes.

    Args:
        connection: in a transaction.
        turns: which lanes, and how many tasks of them together.
        now: the time, seconds since the epoch.

    Returns:
        For each turn what was dispatched, the ids of tasks that were next and whose time is over, and how many of
        both were taken out of each lane.
    """
    chosen = lanes.next_places(connection, [(turn.lanes, len(turn.placements)) for turn in turns])
    changes = [
        (place, placement.lease, placement.number, turn.worker or None)
        for turn, picked in zip(turns, chosen, strict=True)
        for (place, _), placement in zip(picked, turn.placements, strict=False)
    ]
    if not changes:
        return [([], [], {}) for _ in turns]
    rows = {row[0]: row for row in _claim.run(connection, rows_as_json(changes), {"now": now})}
    left = [change[0] for change in changes if change[0] not in rows] if len(rows) < len(changes) else []
    late: dict[int, str] = {row[0]: row[1] for row in _still_queued.run(connection, left)} if left else {}
    result: list[tuple[list[ClaimedTask], list[str], dict[int, int]]] = []
    for turn, picked in zip(turns, chosen, strict=True):
        claimed: list[ClaimedTask] = []
        over: list[str] = []
        found: dict[int, int] = {}
        for (place, lane), placement in zip(picked, turn.placements, strict=False):
            row = rows.get(place)
            if row is not None:
                claimed.append(_claimed(row, lane, turn, placement, now))
            elif place in late:
                over.append(late[place])
            else:
                continue
            found[lane] = found.get(lane, 0) + 1
        result.append((claimed, over, found))
    return result


def _claimed(row: Sequence[Any], lane: int, turn: Turn, placement: Placement, now: float) -> ClaimedTask:
    (
        _, id_, name, args, kwargs, attempt, isolation, queue, priority, submitted_at, expires_at, options, key,
    ) = row  # fmt: skip
    assignment = Assignment(
        id_,
        name,
        placement.lease,
        attempt,
        Raw(args.encode()),
        Raw(kwargs.encode()),
        _ISOLATIONS[isolation],
        policy_to_send(options),
        starts_within(expires_at, now),
    )
    since = submitted_at if options is None else due_since(options, submitted_at)
    return ClaimedTask(assignment, queue, priority, since, placement.number, lane, key or "", turn.worker, turn.express)


def policy_to_send(options: str | None) -> Policy | None:
    """What a worker has to know of stored options; None when they say nothing about running."""
    if options is None:
        return None
    policy = policy_in(options)
    return None if policy == NO_POLICY else policy


def starts_within(expires_at: float | None, now: float) -> float:
    """Seconds from `now` by which a task has to be started; 0 is no limit."""
    return 0.0 if expires_at is None else max(SHORTEST, expires_at - now)


_in_flight = select(
    tasks.c.id,
    tasks.c.task,
    tasks.c.lease,
    tasks.c.attempt,
    tasks.c.args,
    tasks.c.kwargs,
    tasks.c.isolation,
    tasks.c.queue,
    tasks.c.priority,
    tasks.c.submitted_at,
    tasks.c.dispatch,
    tasks.c.expires_at,
    tasks.c.options,
    tasks.c.lane,
    tasks.c.key,
    tasks.c.target,
).where(tasks.c.state == "dispatched")


def dispatched(connection: Connection, now: float) -> list[ClaimedTask]:
    """Every dispatched task, in order of dispatch. Their number is bounded by the windows, and what was held."""
    return [
        ClaimedTask(
            Assignment(
                row.id, row.task, row.lease, row.attempt, Raw(row.args.encode()), Raw(row.kwargs.encode()),
                _ISOLATIONS[row.isolation], policy_to_send(row.options), starts_within(row.expires_at, now),
            ),
            row.queue,
            row.priority,
            row.submitted_at,
            row.dispatch,
            row.lane,
            row.key or "",
            row.target or "",
        )
        for row in connection.execute(_in_flight.order_by(tasks.c.dispatch))
    ]  # fmt: skip


def backlog(connection: Connection) -> dict[str, int]:
    """How many tasks are queued, for each queue that has any."""
    queued: dict[str, int] = {}
    for lane in lanes.waiting(connection):
        queued[lane.queue] = queued.get(lane.queue, 0) + lane.count
    return queued


def count_dispatched(connection: Connection) -> dict[str, int]:
    """How many tasks are dispatched, for each queue that has any."""
    rows = connection.execute(
        select(tasks.c.queue, func.count()).where(text("state = 'dispatched'")).group_by(tasks.c.queue)
    )
    return {row[0]: row[1] for row in rows}

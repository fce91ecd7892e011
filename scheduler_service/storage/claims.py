"""Statements about what is dispatched: claiming what is queued, and reading what is out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Raw, Struct
from sqlalchemy import Connection, bindparam, func, select

from common.options import NO_POLICY, Policy
from common.wire import Assignment, Isolation
from scheduler_service.storage.prepared import Prepared
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
    """

    assignment: Assignment
    queue: str
    priority: int
    submitted_at: float
    number: int


_next = (
    select(
        tasks.c.seq,
        tasks.c.id,
        tasks.c.task,
        tasks.c.args,
        tasks.c.kwargs,
        tasks.c.attempt,
        tasks.c.isolation,
        tasks.c.priority,
        tasks.c.submitted_at,
        tasks.c.expires_at,
        tasks.c.options,
    )
    .where(tasks.c.state == "queued", tasks.c.queue == bindparam("q"))
    .order_by(tasks.c.priority.desc(), tasks.c.seq)
    .limit(bindparam("n"))
    .with_for_update(skip_locked=True)
)
_claim = Prepared(
    tasks.update()
    .where(tasks.c.seq == bindparam("b_seq"))
    .values(
        state=bindparam("state"),
        lease=bindparam("lease"),
        attempt=bindparam("attempt"),
        dispatch=bindparam("dispatch"),
        dispatched_at=bindparam("dispatched_at"),
    ),
    ("state", "attempt", "lease", "dispatch", "dispatched_at", "b_seq"),
)


def claim(
    connection: Connection, queue: str, placements: Sequence[Placement], now: float
) -> tuple[list[ClaimedTask], list[str]]:
    """Dispatch the next queued tasks of `queue`, by priority, then store order.

    Args:
        connection: in a transaction.
        queue: the queue's name.
        placements: leases and numbers, one for each task that may go; those left over are unused.
        now: the time, seconds since the epoch.

    Returns:
        What was dispatched, and the ids of tasks that were next and whose time is over.
    """
    rows = connection.execute(_next, {"q": queue, "n": len(placements)}).all()
    if not rows:
        return [], []
    claimed: list[ClaimedTask] = []
    over: list[str] = []
    changes: list[tuple[Any, ...]] = []
    unused = iter(placements)
    for row in rows:
        seq, id_, name, args, kwargs, attempt, isolation, priority, submitted_at, expires_at, options = row
        if expires_at is not None and expires_at <= now:
            over.append(id_)
            continue
        placement = next(unused)
        assignment = Assignment(
            id_,
            name,
            placement.lease,
            attempt + 1,
            Raw(args.encode()),
            Raw(kwargs.encode()),
            _ISOLATIONS[isolation],
            policy_to_send(options),
            starts_within(expires_at, now),
        )
        since = submitted_at if options is None else due_since(options, submitted_at)
        claimed.append(ClaimedTask(assignment, queue, priority, since, placement.number))
        changes.append(("dispatched", attempt + 1, placement.lease, placement.number, now, seq))
    _claim.run(connection, changes)
    return claimed, over


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
        )
        for row in connection.execute(_in_flight.order_by(tasks.c.dispatch))
    ]  # fmt: skip


def backlog(connection: Connection) -> dict[str, int]:
    """How many tasks are queued, for each queue that has any."""
    rows = connection.execute(
        select(tasks.c.queue, func.count()).where(tasks.c.state == "queued").group_by(tasks.c.queue)
    )
    return {row[0]: row[1] for row in rows}

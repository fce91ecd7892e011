"""Statements on the table of tasks. Each runs inside a transaction of `Store`, over a whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct
from sqlalchemy import Connection, bindparam, func, select

from common.errors import StoreUnavailable
from common.states import TERMINAL, State, Task
from common.wire import NULL, Assignment, ErrorInfo, Isolation, TaskMessage
from scheduler_service.storage.prepared import LookUp, Prepared
from scheduler_service.storage.schema import tasks

_encode = msgspec.json.encode
_error = msgspec.json.Decoder(ErrorInfo)
_STATES = {state.value: state for state in State}
_ISOLATIONS = {isolation.value: isolation for isolation in Isolation}


class Placement(Struct, gc=False):
    """A dispatch that has been decided: its lease, its number, and how it is run."""

    lease: str
    number: int


class NewTask(Struct, gc=False):
    """A task to be stored.

    Attributes:
        message: the submitted task.
        args, kwargs: its arguments as text; that they are valid UTF-8 has been checked.
        owner: the broker user who submitted it.
        reply_to: where the owner is told, or None.
        placement: its dispatch, when it may go at once; otherwise it is queued.
        refusal: why it is not taken; then it is stored as failed.
    """

    message: TaskMessage
    args: str
    kwargs: str
    owner: str
    reply_to: str | None
    placement: Placement | None = None
    refusal: ErrorInfo | None = None


class StoredTask(Struct, gc=False):
    """A task as it is stored, without its arguments."""

    seq: int
    id: str
    name: str
    queue: str
    priority: int
    owner: str
    reply_to: str | None
    submitted_at: float
    dispatched_at: float | None
    finished_at: float | None
    worker: str | None
    task: Task


class ClaimedTask(Struct, gc=False):
    """A task that is dispatched, with what a worker needs.

    Attributes:
        assignment: what travels to the worker.
        queue, priority: where it belongs.
        submitted_at: seconds since the epoch.
        number: the dispatch number.
    """

    assignment: Assignment
    queue: str
    priority: int
    submitted_at: float
    number: int


def insert(connection: Connection, new: Sequence[NewTask], now: float) -> None:
    """Store new tasks, in order; those with a placement as dispatched.

    Raises:
        sqlalchemy.exc.IntegrityError: one of the ids is stored already.
    """
    _insert.run(connection, [_row(task, now) for task in new])


def _row(new: NewTask, now: float) -> tuple[Any, ...]:
    message, placement = new.message, new.placement
    first = (message.id, message.task, message.queue, message.priority)
    then = (new.args, new.kwargs, new.owner, new.reply_to, now)
    if new.refusal is not None:
        error = _encode(new.refusal).decode()
        return (*first, "failed", *then, 0, "", "none", 0, False, 0, None, now, error)
    if placement is None:
        return (*first, "queued", *then, 0, "", "none", 0, False, 0, None, None, None)
    return (*first, "dispatched", *then, 1, placement.lease, "none", 0, False, placement.number, now, None, None)


_insert = Prepared(
    tasks.insert(),
    (
        "id",
        "task",
        "queue",
        "priority",
        "state",
        "args",
        "kwargs",
        "owner",
        "reply_to",
        "submitted_at",
        "attempt",
        "lease",
        "isolation",
        "crashes",
        "held",
        "dispatch",
        "dispatched_at",
        "finished_at",
        "error",
    ),
)


_CORE = (
    tasks.c.seq,
    tasks.c.id,
    tasks.c.task,
    tasks.c.queue,
    tasks.c.priority,
    tasks.c.owner,
    tasks.c.reply_to,
    tasks.c.submitted_at,
    tasks.c.dispatched_at,
    tasks.c.finished_at,
    tasks.c.worker,
    tasks.c.state,
    tasks.c.attempt,
    tasks.c.lease,
    tasks.c.crashes,
    tasks.c.isolation,
    tasks.c.unknown_since,
    tasks.c.due_at,
    tasks.c.held,
    tasks.c.error,
)
_load = LookUp(select(*_CORE).with_for_update(), tasks.c.id)


def load(connection: Connection, ids: Sequence[str]) -> dict[str, StoredTask]:
    """The stored tasks among `ids`, without their results, locked until the end of the transaction."""
    return {row[1]: _stored(row) for row in _load.run(connection, ids)}


def _stored(row: Sequence[Any]) -> StoredTask:
    (
        seq, id_, name, queue, priority, owner, reply_to, submitted_at, dispatched_at, finished_at, worker,
        state, attempt, lease, crashes, isolation, unknown_since, due_at, held, error,
    ) = row  # fmt: skip
    task = Task(
        _STATES[state],
        attempt,
        lease,
        crashes,
        _ISOLATIONS[isolation],
        unknown_since,
        due_at,
        held,
        NULL,
        None if error is None else _error.decode(error),
    )
    return StoredTask(
        seq, id_, name, queue, priority, owner, reply_to, submitted_at, dispatched_at, finished_at, worker, task
    )  # fmt: skip


_finish = Prepared(
    tasks.update()
    .where(
        tasks.c.seq == bindparam("b_seq"), tasks.c.lease == bindparam("b_lease"), tasks.c.state == bindparam("b_state")
    )
    .values(
        state=bindparam("state"),
        result=bindparam("result"),
        error=bindparam("error"),
        finished_at=bindparam("finished_at"),
        worker=bindparam("worker"),
    ),
    ("state", "finished_at", "worker", "result", "error", "b_seq", "b_lease", "b_state"),
)
_save = (
    tasks.update()
    .where(
        tasks.c.seq == bindparam("b_seq"), tasks.c.lease == bindparam("b_lease"), tasks.c.state == bindparam("b_state")
    )
    .values(
        state=bindparam("state"),
        attempt=bindparam("attempt"),
        lease=bindparam("lease"),
        crashes=bindparam("crashes"),
        isolation=bindparam("isolation"),
        unknown_since=bindparam("unknown_since"),
        due_at=bindparam("due_at"),
        held=bindparam("held"),
        result=bindparam("result"),
        error=bindparam("error"),
        finished_at=bindparam("finished_at"),
        worker=bindparam("worker"),
    )
)


def save(connection: Connection, changes: Iterable[tuple[StoredTask, Task]], now: float) -> None:
    """Write changed tasks by compare-and-set on lease and state.

    Args:
        connection: in a transaction that has loaded them.
        changes: each stored task, and the task as it is to be.
        now: the time, seconds since the epoch.

    Raises:
        StoreUnavailable: somebody else changed one of them meanwhile; the transaction is given up.
    """
    finished: list[tuple[Any, ...]] = []
    others: list[dict[str, Any]] = []
    for stored, task in changes:
        was = stored.task
        terminal = task.state in TERMINAL
        result = bytes(task.result).decode() if task.state is State.SUCCEEDED else None
        error = None if task.error is None else _encode(task.error).decode()
        if terminal and task.crashes == was.crashes:
            finished.append(
                (task.state.value, now, stored.worker, result, error, stored.seq, was.lease, was.state.value)
            )
            continue
        others.append(
            {
                "b_seq": stored.seq,
                "b_lease": was.lease,
                "b_state": was.state.value,
                "state": task.state.value,
                "attempt": task.attempt,
                "lease": task.lease,
                "crashes": task.crashes,
                "isolation": task.isolation.value,
                "unknown_since": task.unknown_since,
                "due_at": task.due_at,
                "held": task.held,
                "result": result,
                "error": error,
                "finished_at": now if terminal else None,
                "worker": stored.worker,
            }
        )
    touched = _finish.run(connection, finished)
    if others:
        touched += connection.execute(_save, others).rowcount
    if touched != len(finished) + len(others):
        raise StoreUnavailable("a task was changed by somebody else in the meantime")


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


def claim(connection: Connection, queue: str, placements: Sequence[Placement], now: float) -> list[ClaimedTask]:
    """Dispatch the next queued tasks of `queue`, by priority, then store order.

    Args:
        connection: in a transaction.
        queue: the queue's name.
        placements: leases and numbers, one for each task that may go; those left over are unused.
        now: the time, seconds since the epoch.
    """
    rows = connection.execute(_next, {"q": queue, "n": len(placements)}).all()
    if not rows:
        return []
    claimed: list[ClaimedTask] = []
    changes: list[tuple[Any, ...]] = []
    for row, placement in zip(rows, placements, strict=False):
        seq, id_, name, args, kwargs, attempt, isolation, priority, submitted_at = row
        assignment = Assignment(
            id_, name, placement.lease, attempt + 1, Raw(args.encode()), Raw(kwargs.encode()), _ISOLATIONS[isolation]
        )
        claimed.append(ClaimedTask(assignment, queue, priority, submitted_at, placement.number))
        changes.append(("dispatched", attempt + 1, placement.lease, placement.number, now, seq))
    _claim.run(connection, changes)
    return claimed


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
).where(tasks.c.state == "dispatched")


def dispatched(connection: Connection) -> list[ClaimedTask]:
    """Every dispatched task, in order of dispatch. Their number is bounded by the windows, and what was held."""
    return [
        ClaimedTask(
            Assignment(
                row.id, row.task, row.lease, row.attempt, Raw(row.args.encode()), Raw(row.kwargs.encode()),
                _ISOLATIONS[row.isolation],
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


def count_by_state(connection: Connection) -> dict[tuple[str, str], int]:
    """How many tasks are in each state, by (queue, state). Reads the whole table: for tools, not for the hot path."""
    rows = connection.execute(select(tasks.c.queue, tasks.c.state, func.count()).group_by(tasks.c.queue, tasks.c.state))
    return {(row[0], row[1]): row[2] for row in rows}


_due = (
    select(*_CORE)
    .where(tasks.c.state == "scheduled", tasks.c.due_at <= bindparam("now"))
    .order_by(tasks.c.due_at)
    .limit(bindparam("n"))
    .with_for_update(skip_locked=True)
)


def due(connection: Connection, now: float, limit: int) -> list[StoredTask]:
    """Up to `limit` scheduled tasks whose time has come, the earliest first."""
    return [_stored(row) for row in connection.execute(_due, {"now": now, "n": limit})]


def next_due(connection: Connection) -> float | None:
    """When the next scheduled task is due, seconds since the epoch, or None."""
    when: float | None = connection.execute(
        select(func.min(tasks.c.due_at)).where(tasks.c.state == "scheduled")
    ).scalar()
    return when


_point = tasks.update().where(tasks.c.seq == bindparam("b_seq")).values(reply_to=bindparam("reply_to"))


def point(connection: Connection, seqs: Sequence[int], reply_to: str) -> None:
    """Tell the results of these tasks at `reply_to` from now on."""
    if seqs:
        connection.execute(_point, [{"b_seq": seq, "reply_to": reply_to} for seq in seqs])


_contents = LookUp(
    select(tasks.c.id, tasks.c.task, tasks.c.args, tasks.c.kwargs, tasks.c.queue, tasks.c.priority, tasks.c.owner),
    tasks.c.id,
)


def contents(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, str, str, str, int, str]]:
    """What was submitted under each of `ids`: (task, args, kwargs, queue, priority, owner)."""
    return {
        id_: (name, args, kwargs, queue, priority, owner)
        for id_, name, args, kwargs, queue, priority, owner in _contents.run(connection, ids)
    }


_sizes = LookUp(select(tasks.c.id, func.length(tasks.c.result)).where(tasks.c.result.is_not(None)), tasks.c.id)
_results = LookUp(select(tasks.c.id, tasks.c.result).where(tasks.c.result.is_not(None)), tasks.c.id)


def result_sizes(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """Characters of the stored result of each succeeded task among `ids`."""
    return {row[0]: row[1] for row in _sizes.run(connection, ids)}


def results(connection: Connection, ids: Sequence[str]) -> dict[str, Raw]:
    """The stored results of the succeeded tasks among `ids`; ask for few large ones at a time."""
    return {row[0]: Raw(row[1].encode()) for row in _results.run(connection, ids)}

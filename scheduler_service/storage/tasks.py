"""Statements on the table of tasks. Each runs inside a transaction of `Store`, over a whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct
from sqlalchemy import Connection, bindparam, func, select

from common.errors import StoreUnavailable
from common.options import Policy, TaskOptions
from common.states import TERMINAL, State, Task
from common.wire import NULL, ErrorInfo, Isolation, TaskMessage
from scheduler_service.storage.prepared import LookUp, Prepared
from scheduler_service.storage.schema import tasks

_encode = msgspec.json.encode
_error = msgspec.json.Decoder(ErrorInfo)
_policy = msgspec.json.Decoder(Policy)
_task_options = msgspec.json.Decoder(TaskOptions)
_STATES = {state.value: state for state in State}
_ISOLATIONS = {isolation.value: isolation for isolation in Isolation}


class Placement(Struct, gc=False):
    """A dispatch that has been decided.

    Attributes:
        lease, number: its own.
        worker: the one to whose direct queue it goes; empty: to the work queue.
        express: that worker starts it before what came to it otherwise.
    """

    lease: str
    number: int
    worker: str = ""
    express: bool = False


class NewTask(Struct, gc=False):
    """A task to be stored.

    Attributes:
        message: the submitted task.
        args, kwargs: its arguments as text; that they are valid UTF-8 has been checked.
        owner: the broker user who submitted it.
        reply_to: where the owner is told, or None.
        placement: its dispatch, when it may go at once; otherwise it is queued.
        refusal: why it is not taken; then it is stored as failed.
        due_at: when it becomes due, seconds since the epoch; None: now.
        expires_at: by when it has to be started, seconds since the epoch, or None.
        ttl: seconds for which it is kept after its end; None: as the setting says.
        aliased: other ids stand for it.
        lane: the number of the lane in which it waits, or would.
        parent: the task whose owner becomes its owner, if that task is there; None where nobody who is trusted says so.
    """

    message: TaskMessage
    args: str
    kwargs: str
    owner: str
    reply_to: str | None
    placement: Placement | None = None
    refusal: ErrorInfo | None = None
    due_at: float | None = None
    expires_at: float | None = None
    ttl: float | None = None
    aliased: bool = False
    lane: int = 0
    parent: str | None = None

    @property
    def options(self) -> str | None:
        """Its options as they are stored."""
        options = self.message.options
        return None if options is None else _encode(options).decode()


class StoredTask(Struct, gc=False):
    """A task as it is stored, without its arguments.

    Attributes:
        options: as submitted, JSON; None without.
        aliased: other ids stand for it.
        lane: the number of the lane in which it waits; 0 for one that ended before there were lanes.
        key: whose task it is; empty: nobody's in particular.
    """

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
    options: str | None = None
    aliased: bool = False
    lane: int = 0
    key: str = ""


CORE = (
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
    tasks.c.failures,
    tasks.c.expires_at,
    tasks.c.options,
    tasks.c.aliased,
    tasks.c.lane,
    tasks.c.key,
)
_load = LookUp(select(*CORE).with_for_update(), tasks.c.id)


def load(connection: Connection, ids: Sequence[str]) -> dict[str, StoredTask]:
    """The stored tasks among `ids`, without their results, locked until the end of the transaction."""
    return {row[1]: stored(row) for row in _load.run(connection, ids)}


_queues = LookUp(select(tasks.c.id, tasks.c.queue), tasks.c.id)


def queues_of(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """The queue of each stored task among `ids`."""
    return {row[0]: row[1] for row in _queues.run(connection, ids)}


def stored(row: Sequence[Any]) -> StoredTask:
    """The task in a row of `CORE`."""
    (
        seq, id_, name, queue, priority, owner, reply_to, submitted_at, dispatched_at, finished_at, worker,
        state, attempt, lease, crashes, isolation, unknown_since, due_at, held, error,
        failures, expires_at, options, aliased, lane, key,
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
        failures,
        expires_at,
        None if options is None else policy_in(options).max_crashes,
    )
    return StoredTask(
        seq, id_, name, queue, priority, owner, reply_to, submitted_at, dispatched_at, finished_at, worker, task,
        options, bool(aliased), lane or 0, key or "",
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
_save = Prepared(
    tasks.update()
    .where(
        tasks.c.seq == bindparam("b_seq"), tasks.c.lease == bindparam("b_lease"), tasks.c.state == bindparam("b_state")
    )
    .values(
        state=bindparam("state"),
        attempt=bindparam("attempt"),
        lease=bindparam("lease"),
        isolation=bindparam("isolation"),
        crashes=bindparam("crashes"),
        held=bindparam("held"),
        unknown_since=bindparam("unknown_since"),
        due_at=bindparam("due_at"),
        finished_at=bindparam("finished_at"),
        worker=bindparam("worker"),
        result=bindparam("result"),
        error=bindparam("error"),
        failures=bindparam("failures"),
    ),
    (
        "state",
        "attempt",
        "lease",
        "isolation",
        "crashes",
        "held",
        "unknown_since",
        "due_at",
        "finished_at",
        "worker",
        "result",
        "error",
        "failures",
        "b_seq",
        "b_lease",
        "b_state",
    ),
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
    others: list[tuple[Any, ...]] = []
    for stored_task, task in changes:
        was = stored_task.task
        terminal = task.state in TERMINAL
        result = bytes(task.result).decode() if task.state is State.SUCCEEDED else None
        error = None if task.error is None else _encode(task.error).decode()
        there = (stored_task.seq, was.lease, was.state.value)
        if terminal and task.crashes == was.crashes:
            finished.append((task.state.value, now, stored_task.worker, result, error, *there))
            continue
        others.append(
            (
                task.state.value,
                task.attempt,
                task.lease,
                task.isolation.value,
                task.crashes,
                task.held,
                task.unknown_since,
                task.due_at,
                now if terminal else None,
                stored_task.worker,
                result,
                error,
                task.failures,
                *there,
            )
        )
    touched = _finish.run(connection, finished) + _save.run(connection, others)
    if touched != len(finished) + len(others):
        raise StoreUnavailable("a task was changed by somebody else in the meantime")


def policy_in(options: str) -> Policy:
    """What stored options say about how the task is run."""
    return _policy.decode(options)


def due_since(options: str, submitted_at: float) -> float:
    """When a task with these options first became due, seconds since the epoch."""
    said = _task_options.decode(options)
    return max(said.run_at or 0.0, submitted_at + (said.delay or 0.0))


_point = tasks.update().where(tasks.c.seq == bindparam("b_seq")).values(reply_to=bindparam("reply_to"))


def point(connection: Connection, seqs: Sequence[int], reply_to: str) -> None:
    """Tell the results of these tasks at `reply_to` from now on."""
    if seqs:
        connection.execute(_point, [{"b_seq": seq, "reply_to": reply_to} for seq in seqs])


_mark_aliased = tasks.update().where(tasks.c.seq == bindparam("b_seq")).values(aliased=True)


def mark_aliased(connection: Connection, seqs: Sequence[int]) -> None:
    """Other ids stand for these tasks."""
    if seqs:
        connection.execute(_mark_aliased, [{"b_seq": seq} for seq in seqs])


Content = tuple[str, str, str, str, int, str, str | None]

_contents = LookUp(
    select(
        tasks.c.id,
        tasks.c.task,
        tasks.c.args,
        tasks.c.kwargs,
        tasks.c.queue,
        tasks.c.priority,
        tasks.c.owner,
        tasks.c.options,
        tasks.c.origin,
    ),
    tasks.c.id,
)


def contents(connection: Connection, ids: Sequence[str]) -> dict[str, Content]:
    """What was submitted under each of `ids`: (task, args, kwargs, queue, priority, owner, options)."""
    found: dict[str, Content] = {}
    for id_, name, args, kwargs, queue, priority, owner, options, origin in _contents.run(connection, ids):
        if origin is not None:
            # It was moved: that it is the same submission shows in where it was to go at first.
            queue, _, text = origin.partition(" ")
            priority = int(text)
        found[id_] = (name, args, kwargs, queue, priority, owner, options)
    return found


_submitted = LookUp(
    select(
        tasks.c.id,
        tasks.c.task,
        tasks.c.args,
        tasks.c.kwargs,
        tasks.c.queue,
        tasks.c.priority,
        tasks.c.options,
    ),
    tasks.c.id,
)


def submitted(connection: Connection, ids: Sequence[str]) -> dict[str, TaskMessage]:
    """The tasks as they were submitted."""
    return {
        id_: TaskMessage(
            id_,
            name,
            Raw(args.encode()),
            Raw(kwargs.encode()),
            queue,
            priority,
            None if options is None else _task_options.decode(options),
        )
        for id_, name, args, kwargs, queue, priority, options in _submitted.run(connection, ids)
    }


def count_by_state(connection: Connection) -> dict[tuple[str, str], int]:
    """How many tasks are in each state, by (queue, state). Reads the whole table: for tools, not for the hot path."""
    rows = connection.execute(select(tasks.c.queue, tasks.c.state, func.count()).group_by(tasks.c.queue, tasks.c.state))
    return {(row[0], row[1]): row[2] for row in rows}

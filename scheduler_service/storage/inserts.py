"""Statements that store new tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Connection, Text, bindparam, false, literal_column, null

from scheduler_service.storage.prepared import Field, Fill, Prepared, keeps_text, rows_as_json
from scheduler_service.storage.schema import tasks
from scheduler_service.storage.tasks import NewTask

_encode = msgspec.json.encode
ALIKE: Final = 8
"""Tasks in a row, on average, that are alike but for their ids and arguments, from which on a statement for each row of
them is faster than values for each task."""


def insert(connection: Connection, new: Sequence[NewTask], now: float) -> None:
    """Store new tasks, in order; those with a placement as dispatched.

    Raises:
        sqlalchemy.exc.IntegrityError: one of the ids is stored already.
    """
    if any(task.message.options is not None for task in new):
        _insert_with_options.run(connection, [(*_row(task, now), *_more(task)) for task in new])
    elif len(new) < ALIKE or not _insert_alike(connection, new, now):
        _insert.run(connection, [_row(task, now) for task in new])


def _insert_alike(connection: Connection, new: Sequence[NewTask], now: float) -> bool:
    """Store tasks without options; False, and nothing done, when too few of them are alike."""
    if any(task.refusal is not None for task in new):
        return False
    alike = [(names, list(run)) for names, run in groupby(new, _names)]
    if len(alike) * ALIKE > len(new):
        return False
    texts = [rows_as_json(list(_own(run))) for _, run in alike]
    if not all(map(keeps_text, texts)):
        return False
    for (names, run), rows in zip(alike, texts, strict=True):
        values = dict(zip(_NAMES, names, strict=True))
        placed = run[0].placement is not None
        (_insert_placed if placed else _insert_queued).run(connection, rows, {**values, "submitted_at": now})
    return True


def _names(new: NewTask) -> tuple[Any, ...]:
    message = new.message
    return (
        message.task, message.queue, message.priority, new.owner, new.reply_to, new.lane,
        "queued" if new.placement is None else "dispatched",
    )  # fmt: skip


def _own(alike: Sequence[NewTask]) -> Iterator[tuple[Any, ...]]:
    for task in alike:
        placement = task.placement
        if placement is None:
            yield task.message.id, task.args, task.kwargs
        else:
            yield task.message.id, task.args, task.kwargs, placement.lease, placement.number


def _row(new: NewTask, now: float) -> tuple[Any, ...]:
    message, placement = new.message, new.placement
    first = (message.id, message.task, message.queue, message.priority)
    then = (new.args, new.kwargs, new.owner, new.reply_to, now)
    if new.refusal is not None:
        error = _encode(new.refusal).decode()
        return (*first, "failed", *then, 0, "", "none", 0, False, 0, None, now, error, new.lane)
    if placement is None:
        state = "queued" if new.due_at is None else "scheduled"
        return (*first, state, *then, 0, "", "none", 0, False, 0, None, None, None, new.lane)
    out = (placement.lease, "none", 0, False, placement.number, now, None, None, new.lane)
    return (*first, "dispatched", *then, 1, *out)


def _more(new: NewTask) -> tuple[Any, ...]:
    options = new.message.options
    key = None if options is None else options.key
    target = new.placement.worker or None if new.placement is not None else None
    return (new.due_at, new.expires_at, new.options, new.ttl, key, new.aliased, target)


_COLUMNS = (
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
    "lane",
)
_insert = Prepared(tasks.insert(), _COLUMNS)
_insert_with_options = Prepared(
    tasks.insert(), (*_COLUMNS, "due_at", "expires_at", "options", "ttl", "key", "aliased", "target")
)

_NAMES = ("task", "queue", "priority", "owner", "reply_to", "lane", "state")


def _fill(field: Field, *, placed: bool) -> dict[str, Any]:
    return {
        "id": field(0, Text),
        "args": field(1, Text),
        "kwargs": field(2, Text),
        **{name: bindparam(name) for name in (*_NAMES, "submitted_at")},
        "lease": field(3, Text) if placed else literal_column("''"),
        "dispatch": field(4, BigInteger) if placed else literal_column("0"),
        "attempt": literal_column("1" if placed else "0"),
        "dispatched_at": bindparam("submitted_at") if placed else null(),
        "isolation": literal_column("'none'"),
        "crashes": literal_column("0"),
        "held": false(),
    }


_insert_queued = Fill(tasks, lambda field: _fill(field, placed=False))
_insert_placed = Fill(tasks, lambda field: _fill(field, placed=True))

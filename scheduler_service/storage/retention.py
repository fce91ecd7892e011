"""Statements that forget: finished tasks with all that belongs to them, and parked messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, text

from scheduler_service.storage.prepared import Prepared
from scheduler_service.storage.schema import OWN_TTL, aliases, attempts, keys, parked, tasks


class Kept(NamedTuple):
    """What decides how long a task is kept."""

    seq: int
    id: str
    submitted_at: float
    finished_at: float | None
    ttl: float | None


_oldest = (
    select(tasks.c.seq, tasks.c.id, tasks.c.submitted_at, tasks.c.finished_at, tasks.c.ttl)
    .where(tasks.c.seq > bindparam("after"))
    .order_by(tasks.c.seq)
    .limit(bindparam("n"))
)
_own_ttl = (
    select(tasks.c.seq, tasks.c.id).where(text(OWN_TTL), text("(finished_at + ttl) <= :now")).limit(bindparam("n"))
)


def oldest(connection: Connection, after: int, limit: int) -> list[Kept]:
    """The next `limit` tasks behind the place `after`, the oldest first."""
    return [Kept(*row) for row in connection.execute(_oldest, {"after": after, "n": limit})]


def over_by_own_ttl(connection: Connection, now: float, limit: int) -> list[tuple[int, str]]:
    """Up to `limit` finished tasks (place, id) that said themselves for how long they are kept, and no longer are."""
    return [(row[0], row[1]) for row in connection.execute(_own_ttl, {"now": now, "n": limit})]


_delete_task = Prepared(tasks.delete().where(tasks.c.seq == bindparam("b_seq")), ("b_seq",))
_delete_attempts = Prepared(attempts.delete().where(attempts.c.task == bindparam("b_task")), ("b_task",))
_delete_aliases = Prepared(aliases.delete().where(aliases.c.task == bindparam("b_task")), ("b_task",))
_delete_keys = Prepared(keys.delete().where(keys.c.task == bindparam("b_task")), ("b_task",))
_delete_parked = Prepared(parked.delete().where(parked.c.seq == bindparam("b_seq")), ("b_seq",))


def forget(connection: Connection, found: Sequence[tuple[int, str]]) -> None:
    """Delete tasks (place, id), their attempts, and the names that stand for them."""
    seqs, ids = [(seq,) for seq, _ in found], [(id_,) for _, id_ in found]
    _delete_attempts.run(connection, seqs)
    _delete_aliases.run(connection, ids)
    _delete_keys.run(connection, ids)
    _delete_task.run(connection, seqs)


def oldest_parked(connection: Connection, limit: int) -> list[tuple[int, float]]:
    """The oldest parked messages (number, when)."""
    rows = connection.execute(select(parked.c.seq, parked.c.at).order_by(parked.c.seq).limit(limit))
    return [(row[0], row[1]) for row in rows]


def forget_parked(connection: Connection, numbers: Sequence[int]) -> None:
    """Delete parked messages."""
    _delete_parked.run(connection, [(number,) for number in numbers])

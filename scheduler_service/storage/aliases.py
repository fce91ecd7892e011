"""Statements on names that stand for tasks: aliases (other ids) and keys (idempotency, `unique`, replays)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct
from sqlalchemy import Connection, bindparam, select, tuple_

from scheduler_service.storage.prepared import LookUp, Prepared
from scheduler_service.storage.schema import aliases, keys


class KeyKind(StrEnum):
    """What a key is for."""

    IDEMPOTENCY = "idempotency"
    UNIQUE = "unique"
    REPLAY = "replay"
    """Its name is the id of a failed task, and it stands for the task that repeats it."""


class Alias(Struct, gc=False):
    """An id that stands for another task.

    Attributes:
        id: the id.
        task: the id of the task that it stands for.
        owner: the broker user who submitted it.
        reply_to: where the owner is told, or None.
    """

    id: str
    task: str
    owner: str
    reply_to: str | None


class Key(Struct, gc=False):
    """A name of one user's that stands for a task.

    Attributes:
        owner, kind, name: which.
        task: the task's id.
        until: when it ends, seconds since the epoch; None with its task.
    """

    owner: str
    kind: KeyKind
    name: str
    task: str
    until: float | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """What there can be only one of."""
        return self.owner, self.kind.value, self.name


_columns = (aliases.c.id, aliases.c.task, aliases.c.owner, aliases.c.reply_to)
_by_id = LookUp(select(*_columns), aliases.c.id)
_by_task = LookUp(select(*_columns), aliases.c.task)
_insert = Prepared(aliases.insert(), ("id", "task", "owner", "reply_to", "at"))


def load(connection: Connection, ids: Sequence[str]) -> dict[str, Alias]:
    """The aliases among `ids`."""
    return {row[0]: Alias(*row) for row in _by_id.run(connection, ids)} if ids else {}


def of(connection: Connection, tasks: Sequence[str]) -> dict[str, list[Alias]]:
    """The aliases that stand for these tasks, by the task's id."""
    found: dict[str, list[Alias]] = {}
    for row in _by_task.run(connection, tasks) if tasks else ():
        found.setdefault(row[1], []).append(Alias(*row))
    return found


def insert(connection: Connection, new: Iterable[Alias], now: float) -> None:
    """Store new aliases."""
    _insert.run(connection, [(each.id, each.task, each.owner, each.reply_to, now) for each in new])


_point = aliases.update().where(aliases.c.id == bindparam("b_id")).values(reply_to=bindparam("reply_to"))


def point(connection: Connection, ids: Sequence[str], reply_to: str) -> None:
    """Tell the results of what these aliases stand for at `reply_to` from now on."""
    if ids:
        connection.execute(_point, [{"b_id": id_, "reply_to": reply_to} for id_ in ids])


def keys_at(connection: Connection, places: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], Key]:
    """The keys at these places (owner, kind, name)."""
    found: dict[tuple[str, str, str], Key] = {}
    for at in range(0, len(places), 200):
        rows = connection.execute(
            select(keys.c.owner, keys.c.kind, keys.c.name, keys.c.task, keys.c.until).where(
                tuple_(keys.c.owner, keys.c.kind, keys.c.name).in_(places[at : at + 200])
            )
        )
        for owner, kind, name, task, until in rows:
            key = Key(owner, KeyKind(kind), name, task, until)
            found[key.place] = key
    return found


_insert_key = Prepared(keys.insert(), ("owner", "kind", "name", "task", "until"))
_replace_key = Prepared(
    keys.update()
    .where(keys.c.owner == bindparam("b_owner"), keys.c.kind == bindparam("b_kind"), keys.c.name == bindparam("b_name"))
    .values(task=bindparam("task"), until=bindparam("until")),
    ("task", "until", "b_owner", "b_kind", "b_name"),
)


def take(connection: Connection, fresh: Iterable[Key], replaced: Iterable[Key]) -> None:
    """Let keys stand for tasks: `fresh` ones that are not there, and others in the place of what is there."""
    _insert_key.run(connection, [(*key.place, key.task, key.until) for key in fresh])
    _replace_key.run(connection, [(key.task, key.until, *key.place) for key in replaced])

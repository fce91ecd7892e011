"""Storing submissions: new tasks, those that are known, and those that are another task again (`aliases`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from common.options import IDEMPOTENCY_WINDOW
from common.states import TERMINAL
from scheduler_service.operations.moving import note_dispatched
from scheduler_service.storage import aliases, inserts, marks, parked, tasks
from scheduler_service.storage.aliases import Alias, Key, KeyKind
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.quotas import Limited
from scheduler_service.storage.tasks import NewTask, StoredTask

NO_RATES: Final[Mapping[Limited, float]] = {}


class AliasOf(Struct):
    """A submission that is another task again.

    Attributes:
        alias: which of which.
        terminal: that one is over, so that its result can be told.
    """

    alias: Alias
    terminal: bool


class Accepted(Struct):
    """What became of a batch of submissions.

    Attributes:
        stored: the new ones.
        known: those that were stored before with the same content.
        conflicts: those whose id stands for something else; they have been parked.
        aliases: those that are another task again, by idempotency key or `unique`.
    """

    stored: list[NewTask]
    known: list[StoredTask]
    conflicts: list[NewTask]
    aliases: list[AliasOf] = []


def accept(
    connection: Connection,
    new: Sequence[NewTask],
    refused: Sequence[ParkedMessage],
    mark: int,
    now: float,
    spans: Mapping[Limited, float] = NO_RATES,
) -> Accepted:
    """Store submissions whose ids are all new, and park what was refused.

    Args:
        connection: in a transaction.
        new: the submissions.
        refused: what is parked.
        mark: up to which dispatch the broker has confirmed.
        now: the time, seconds since the epoch.
        spans: the seconds of each rate's span, by scope and name.

    Raises:
        StoreConflict: one of the ids is known: use `accept_carefully`. (Raised by the store that runs this.)
    """
    _inherit(connection, new)
    keyed = [task for task in new if task.message.options is not None and task.refusal is None and _places(task)]
    accepted = Accepted(list(new), [], [])
    if keyed:
        _resolve(connection, keyed, accepted, now)
    inserts.insert(connection, accepted.stored, now)
    if spans:
        placed = [task.message for task in accepted.stored if task.placement is not None]
        keys = ((message.options.key or "" if message.options else "") for message in placed)
        names = ((message.queue, message.task, key) for message, key in zip(placed, keys, strict=True))
        note_dispatched(connection, spans, names, now)
    parked.park(connection, [*refused, *(_conflict(task) for task in accepted.conflicts)], now)
    marks.write(connection, marks.CONFIRMED, mark)
    return accepted


def accept_carefully(
    connection: Connection,
    new: Sequence[NewTask],
    refused: Sequence[ParkedMessage],
    mark: int,
    now: float,
    spans: Mapping[Limited, float] = NO_RATES,
) -> Accepted:
    """As `accept`, for a batch in which ids may be known, or stand twice.

    Same id and same content is the same submission: nothing is stored, and its results are told where it says now.
    Same id and other content is parked; what was stored first is untouched.
    """
    _inherit(connection, new)
    ids = [task.message.id for task in new]
    contents = tasks.contents(connection, ids)
    known = tasks.load(connection, ids)
    stored: list[NewTask] = []
    same: dict[str, StoredTask] = {}
    conflicts: list[NewTask] = []
    for task in new:
        content = _content(task)
        if task.message.id not in contents:
            contents[task.message.id] = content
            stored.append(task)
        elif contents[task.message.id] != content:
            conflicts.append(task)
        elif task.message.id in known:
            found = known[task.message.id]
            if task.reply_to is not None:
                found.reply_to = task.reply_to
                tasks.point(connection, [found.seq], task.reply_to)
            same[found.id] = found
    reports = [_conflict(task) for task in conflicts]
    accepted = accept(connection, stored, [*refused, *reports], mark, now, spans)
    accepted.known = list(same.values())
    accepted.conflicts += conflicts
    return accepted


def _inherit(connection: Connection, new: Sequence[NewTask]) -> None:
    """Give children to the owners of their parents. (A transaction may be run twice, and so may this.)"""
    named = {task.parent: None for task in new if task.parent is not None}
    if not named:
        return
    parents = tasks.load(connection, list(named))
    for task in new:
        if task.parent in parents:
            task.owner = parents[task.parent].owner


def _content(task: NewTask) -> tasks.Content:
    message = task.message
    return message.task, task.args, task.kwargs, message.queue, message.priority, task.owner, task.options


def _conflict(task: NewTask) -> ParkedMessage:
    return ParkedMessage(
        "submit",
        "conflict",
        f"the id {task.message.id} stands for a task with other content",
        f'{{"task":"{task.message.task}","args":{task.args},"kwargs":{task.kwargs}}}'.encode(),
        task.owner,
        {"id": task.message.id},
    )


def _places(task: NewTask) -> list[tuple[str, str, str]]:
    """The keys under which a task has to be the only one, the stronger first."""
    options = task.message.options
    assert options is not None
    places = []
    if options.idempotency_key is not None:
        places.append((task.owner, KeyKind.IDEMPOTENCY.value, options.idempotency_key))
    if options.unique is not None:
        places.append((task.owner, KeyKind.UNIQUE.value, options.unique))
    return places


def _key(task: NewTask, place: tuple[str, str, str], now: float) -> Key:
    owner, kind, name = place
    options = task.message.options
    until = None
    if kind == KeyKind.IDEMPOTENCY.value and options is not None:
        until = now + (options.idempotency_window or IDEMPOTENCY_WINDOW)
    return Key(owner, KeyKind(kind), name, task.message.id, until)


def _resolve(connection: Connection, keyed: Sequence[NewTask], accepted: Accepted, now: float) -> None:
    """Take out of `accepted.stored` those that are another task again."""
    before = aliases.load(connection, [task.message.id for task in keyed])
    there = aliases.keys_at(connection, list({place: None for task in keyed for place in _places(task)}))
    ids = {key.task: None for key in there.values()} | {alias.task: None for alias in before.values()}
    firsts = tasks.load(connection, list(ids))
    current = {place: key for place, key in there.items() if _holds(key, firsts.get(key.task), now)}
    batch = {task.message.id: task for task in keyed}
    taken: dict[tuple[str, str, str], Key] = {}
    fresh: dict[str, Alias] = {}
    out: set[int] = set()
    for task in keyed:
        id_ = task.message.id
        known = before.get(id_) or fresh.get(id_)
        if known is not None:
            out.add(id(task))
            if known.owner != task.owner:
                accepted.conflicts.append(task)
                continue
            if id_ in before and task.reply_to is not None:
                known.reply_to = task.reply_to
                aliases.point(connection, [id_], task.reply_to)
            accepted.aliases.append(AliasOf(known, _over(firsts.get(known.task))))
            continue
        places = _places(task)
        key = next((current[place] for place in places if place in current), None)
        if key is None:
            for place in places:
                current[place] = taken[place] = _key(task, place, now)
        elif key.task != id_:
            out.add(id(task))
            alias = fresh[id_] = Alias(id_, key.task, task.owner, task.reply_to)
            accepted.aliases.append(AliasOf(alias, _over(firsts.get(key.task))))
            if key.task in batch:
                batch[key.task].aliased = True
    accepted.stored = [task for task in accepted.stored if id(task) not in out]
    aliases.insert(connection, fresh.values(), now)
    aliases.take(
        connection,
        [key for place, key in taken.items() if place not in there],
        [key for place, key in taken.items() if place in there],
    )
    stands_for = {alias.task for alias in fresh.values()}
    tasks.mark_aliased(connection, [first.seq for first in firsts.values() if first.id in stands_for])


def _holds(key: Key, first: StoredTask | None, now: float) -> bool:
    """Whether `key` stands for its task still."""
    if first is None:
        return False
    if key.until is None:
        return first.task.state not in TERMINAL
    return key.until > now


def _over(first: StoredTask | None) -> bool:
    return first is not None and first.task.state in TERMINAL

"""Dead letters: failed tasks and parked messages, page by page; replaying and purging them.

Pages go over the failed tasks first, then over the parked messages, both from the newest to the oldest; a place is
``t<seq>`` or ``p<number>``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from common.ids import new_task_id
from common.options import TaskOptions
from common.questions import Dead, DeadLetter, DeadVerb, Filter
from common.wire import ErrorKind
from scheduler_service.operations.rearranging import LaneNumber
from scheduler_service.operations.searching import Page, fits, walk
from scheduler_service.storage import aliases, inserts, parked, retention, tasks
from scheduler_service.storage.aliases import Key, KeyKind
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.parked import StoredParked
from scheduler_service.storage.search import Glimpse
from scheduler_service.storage.tasks import NewTask, StoredTask

BATCH = 500
"""Dead letters that are dealt with in one transaction."""
SHOWN = 20
"""The same with their payloads."""
LONGEST_PAYLOAD = 512 * 1024
"""Characters of a payload that are shown."""
LONGEST_DETAIL = 500

_options = msgspec.json.Decoder(TaskOptions)


class DeadPage(Struct):
    """What was found, or done.

    Attributes:
        letters: the page.
        next: where the next page begins; None at the end.
        queued: new tasks that replay others.
    """

    letters: list[DeadLetter]
    next: str | None
    queued: list[NewTask]


def dead_page(
    connection: Connection,
    ask: Dead,
    owner: str | None,
    after: str | None,
    limit: int,
    lane_number: LaneNumber,
    now: float,
) -> DeadPage:
    """One page of the dead letters of `owner` (None: of anybody), after what was asked was done with it."""
    limit = min(limit, SHOWN if ask.verb is DeadVerb.SHOW else BATCH)
    if ask.parked is not None:
        return _parked(connection, ask, owner, parked.numbered(connection, ask.parked), None)
    place = int(after[1:]) if after is not None and len(after) > 1 else None
    if after is None or after.startswith("t"):
        page = _failed_page(connection, ask, owner, place, limit)
        dead = _failed(connection, ask, page, lane_number, now)
        if dead.next is None and _means_parked(ask.where):
            dead.next = "p"
        return dead
    messages = parked.before(connection, place, limit)
    return _parked(connection, ask, owner, messages, f"p{messages[-1].seq}" if len(messages) >= limit else None)


def _means_parked(where: Filter) -> bool:
    """Whether messages that are no tasks are asked for too."""
    return not (where.ids or where.task or where.queue or where.key or where.labels)


def _failed_page(connection: Connection, ask: Dead, owner: str | None, before: int | None, limit: int) -> Page:
    where = replace(ask.where, states=["failed"])

    def fit(task: Glimpse) -> bool:
        return fits(where, owner, task)

    if where.ids is None:
        return walk(connection, fit, before, limit, failed=True)
    found = tasks.load(connection, where.ids)
    glimpses = [
        Glimpse(
            each.seq, each.id, each.task.state.value, each.name, each.queue, each.owner, each.submitted_at, each.options
        )
        for each in found.values()
    ]
    return Page([each.id for each in glimpses if fit(each)], None)


def _failed(connection: Connection, ask: Dead, page: Page, lane_number: LaneNumber, now: float) -> DeadPage:
    found = tasks.load(connection, page.ids)
    dead = [found[id_] for id_ in page.ids if _reason(found[id_]) == (ask.reason or _reason(found[id_]))]
    queued: list[NewTask] = []
    before = aliases.keys_at(connection, [_place(task) for task in dead])
    replays = {key.name: key.task for key in before.values()}
    if ask.verb is DeadVerb.REPLAY:
        fresh = [task for task in dead if task.id not in replays]
        replays |= _replay(connection, fresh, queued, lane_number, now)
    payloads = tasks.submitted(connection, [task.id for task in dead]) if ask.verb is DeadVerb.SHOW else {}
    letters = [
        DeadLetter(
            task.id,
            0,
            task.finished_at or 0.0,
            task.queue,
            _reason(task),
            "" if task.task.error is None else task.task.error.message[:LONGEST_DETAIL],
            task.name,
            task.queue,
            replays.get(task.id, ""),
            msgspec.json.encode(payloads[task.id]).decode()[:LONGEST_PAYLOAD] if task.id in payloads else "",
        )
        for task in dead
    ]
    if ask.verb is DeadVerb.PURGE:
        retention.forget(connection, [(task.seq, task.id) for task in dead])
    return DeadPage(letters, None if page.next is None else f"t{page.next}", queued)


def _reason(task: StoredTask) -> str:
    return "" if task.task.error is None else task.task.error.kind.value


def _place(task: StoredTask) -> tuple[str, str, str]:
    return task.owner, KeyKind.REPLAY.value, task.id


def _replay(
    connection: Connection, dead: Sequence[StoredTask], new: list[NewTask], lane_number: LaneNumber, now: float
) -> dict[str, str]:
    """Store failed tasks again as new ones; returns their new ids. What was refused was never kept, and stays."""
    again = {task.id: task for task in dead if _reason(task) != ErrorKind.REFUSED.value}
    messages = tasks.submitted(connection, list(again))
    keys: list[Key] = []
    for id_, message in messages.items():
        owner = again[id_].owner
        args, kwargs = bytes(message.args).decode(), bytes(message.kwargs).decode()
        options = replace(
            message.options or TaskOptions(),
            replay_of=id_,
            delay=None,
            run_at=None,
            expires_at=None,
            idempotency_key=None,
            idempotency_window=None,
            unique=None,
        )
        replay = NewTask(replace(message, id=new_task_id(), options=options), args, kwargs, owner, None)
        replay.ttl = options.result_ttl
        replay.expires_at = None if options.expires_in is None else now + options.expires_in
        labels = options.requires or ()
        replay.lane = lane_number(message.queue, message.priority, message.task, options.key or "", labels)
        new.append(replay)
        keys.append(Key(owner, KeyKind.REPLAY, id_, replay.message.id))
    if new:
        inserts.insert(connection, new, now)
        aliases.take(connection, keys, [])
    return {key.name: key.task for key in keys}


def _parked(
    connection: Connection, ask: Dead, owner: str | None, messages: Sequence[StoredParked], following: str | None
) -> DeadPage:
    where = ask.where
    mine = [
        message
        for message in messages
        if (owner is None or message.owner == owner)
        and (ask.reason is None or message.reason == ask.reason)
        and (where.since is None or message.at >= where.since)
        and (where.until is None or message.at <= where.until)
    ]
    bodies = parked.payloads(connection, [message.seq for message in mine]) if ask.verb is DeadVerb.SHOW else {}
    letters = [
        DeadLetter(
            message.headers.get("id", ""),
            message.seq,
            message.at,
            message.origin,
            message.reason,
            message.detail[:LONGEST_DETAIL],
            message.headers.get("task", ""),
            message.headers.get("queue", ""),
            payload=bodies.get(message.seq, b"")[:LONGEST_PAYLOAD].decode(errors="replace"),
        )
        for message in mine
    ]
    if ask.verb is DeadVerb.PURGE:
        retention.forget_parked(connection, [message.seq for message in mine])
    return DeadPage(letters, following, [])

"""Moving tasks that wait to another queue, or to another priority, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from common.administration import Change
from common.questions import Filter
from common.states import State
from scheduler_service.operations.asking import find
from scheduler_service.operations.searching import fits, glimpse, walk
from scheduler_service.storage import changes, moves, tasks
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.lanes import required
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.search import Glimpse

LaneNumber = Callable[[str, int, str, str, Sequence[str]], int]
"""The number of the lane for a queue, a priority, a task function, a fairness key and required labels."""
_WAITING = (State.QUEUED, State.SCHEDULED)


class RearrangedPage(Struct):
    """What became of a page.

    Attributes:
        ids: what was moved, or was there already; the newest first.
        next: where to go on; None at the end.
        moved: those that were moved by this.
        change: what was written down about it, if anything was moved.
    """

    ids: list[str]
    next: int | None
    moved: list[Moved]
    change: Change | None


def rearrange(
    connection: Connection,
    where: Filter,
    owner: str | None,
    queue: str | None,
    priority: int | None,
    after: int | None,
    limit: int,
    lane_number: LaneNumber,
    user: str,
    now: float,
) -> RearrangedPage:
    """Move a page of the queued and scheduled tasks that fit, and write down that it was done.

    Args:
        connection: in a transaction.
        where: which.
        owner: whose; None: anybody's.
        queue: where to; None: where they are.
        priority: which priority; None: the one they have.
        after: go on behind this place.
        limit: how many at most.
        lane_number: numbers lanes.
        user: who wants it.
        now: the time, seconds since the epoch.

    Raises:
        StoreUnavailable: one of them was changed by somebody else meanwhile; nothing was moved.
    """
    if where.ids is not None:
        found, _ = find(connection, where.ids, owner)
        asked = {each.stored.id: each.stored for each in found.values() if fits(where, owner, glimpse(each))}
        candidates, following = list(asked.values()), None
    else:
        page = walk(connection, partial(_may_move, where, owner), after, limit)
        known = tasks.load(connection, page.ids)
        candidates, following = [known[id_] for id_ in page.ids], page.next
    waiting = [stored for stored in candidates if stored.task.state in _WAITING]
    moved: list[Moved] = []
    for stored in waiting:
        to = (queue or stored.queue, stored.priority if priority is None else priority)
        if to != (stored.queue, stored.priority):
            number = lane_number(*to, stored.name, stored.key, required(stored.options))
            moved.append(Moved(stored, *to, number))
    moves.move(connection, moved)
    change = _described(moved, queue, priority, user, now) if moved else None
    if change is not None:
        changes.record(connection, change)
    return RearrangedPage([stored.id for stored in waiting], following, moved, change)


def _may_move(where: Filter, owner: str | None, task: Glimpse) -> bool:
    return task.state in _WAITING and fits(where, owner, task)


def _described(moved: Sequence[Moved], queue: str | None, priority: int | None, user: str, now: float) -> Change:
    origins = ", ".join(sorted({each.stored.queue for each in moved}))
    count = f"{len(moved)} task{'s' if len(moved) > 1 else ''}"
    to = [f"to {queue}"] if queue is not None else []
    to += [f"to priority {priority}"] if priority is not None else []
    detail = f"{count} of {origins} {' and '.join(to)}"
    return Change(now, user, "move" if queue is not None else "reprioritise", queue or origins[:128], detail)

"""Finding tasks by a filter, page by page, and cancelling them.

A walk reads a bounded number of rows in each transaction, so that a filter that fits nothing in a large history does
not stop the hot path; whoever asks goes on at the place where the walk has come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.json import Decoder

from common.options import TaskOptions
from common.questions import Filter
from common.states import TERMINAL, Cancelled, Rules
from scheduler_service.operations.applying import Ended, end
from scheduler_service.operations.asking import Found, find
from scheduler_service.storage import search, tasks
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.search import Glimpse

_options = Decoder(TaskOptions)
_TERMINAL = frozenset(state.value for state in TERMINAL)


class Page(Struct):
    """What a walk has found.

    Attributes:
        ids: the tasks, the newest first.
        next: where the walk goes on; None at the end.
    """

    ids: list[str]
    next: int | None


def walk(
    connection: Connection, fits: Callable[[Glimpse], bool], after: int | None, limit: int, *, failed: bool = False
) -> Page:
    """Look at a bounded number of tasks behind `after`, and keep up to `limit` that fit."""
    found: list[str] = []
    seen = search.walk(connection, after, failed=failed)
    for at, glimpse in enumerate(seen):
        if fits(glimpse):
            found.append(glimpse.id)
            if len(found) >= limit and at + 1 < len(seen):
                return Page(found, glimpse.seq)
    return Page(found, seen[-1].seq if len(seen) >= search.SCAN or len(found) >= limit else None)


def fits(where: Filter, owner: str | None, task: Glimpse) -> bool:
    """Whether all of the filter applies to a task of `owner` (None: of anybody)."""
    return (
        (owner is None or task.owner == owner)
        and (where.states is None or task.state in where.states)
        and (where.task is None or task.name == where.task)
        and (where.queue is None or task.queue == where.queue)
        and (where.since is None or task.submitted_at >= where.since)
        and (where.until is None or task.submitted_at <= where.until)
        and _fits_options(where, task.options)
    )


def _fits_options(where: Filter, text: str | None) -> bool:
    if where.key is None and not where.labels:
        return True
    if text is None:
        return False
    options = _options.decode(text)
    labels = options.labels or {}
    return (where.key is None or options.key == where.key) and all(
        labels.get(name) == value for name, value in (where.labels or {}).items()
    )


def glimpse(found: Found) -> Glimpse:
    """What of a found task decides whether it fits."""
    stored = found.stored
    return Glimpse(
        stored.seq,
        found.id,
        stored.task.state.value,
        stored.name,
        stored.queue,
        stored.owner,
        stored.submitted_at,
        stored.options,
    )


def list_tasks(
    connection: Connection, where: Filter, owner: str | None, after: int | None, limit: int
) -> tuple[list[Found], list[str], int | None]:
    """A page of the tasks that fit, the newest first; ids that are unknown; and where to go on."""
    if where.ids is not None:
        found, unknown = find(connection, where.ids, owner)
        mine = [each for each in found.values() if fits(where, owner, glimpse(each))]
        return sorted(mine, key=lambda each: -each.stored.seq), unknown, None
    page = walk(connection, partial(fits, where, owner), after, limit)
    known = tasks.load(connection, page.ids)
    return [Found(id_, known[id_], None) for id_ in page.ids], [], page.next


class CancelledPage(Struct):
    """What became of a page of tasks to be cancelled.

    Attributes:
        states: the state of each now, by the id that was asked about.
        unknown: ids behind which there is no task.
        next: where to go on; None at the end.
        ended: those that were cancelled by this.
    """

    states: dict[str, str]
    unknown: list[str]
    next: int | None
    ended: list[Ended]


def cancel(
    connection: Connection, where: Filter, owner: str | None, after: int | None, limit: int, rules: Rules, now: float
) -> CancelledPage:
    """Cancel a page of the tasks that fit. What has ended before stays as it is, and is named only by its id."""
    if where.ids is not None:
        asked, unknown = find(connection, where.ids, owner)
        found = [each for each in asked.values() if fits(where, owner, glimpse(each))]
        following = None
    else:
        page = walk(connection, lambda task: task.state not in _TERMINAL and fits(where, owner, task), after, limit)
        known = tasks.load(connection, page.ids)
        found, unknown, following = [Found(id_, known[id_], None) for id_ in page.ids], [], page.next
    distinct = {each.stored.id: each.stored for each in found}
    ended = end(connection, list(distinct.values()), Cancelled(), rules, now)
    now_states = {each.stored.id: each.task.state.value for each in ended}
    states = {each.id: now_states.get(each.stored.id, each.stored.task.state.value) for each in found}
    return CancelledPage(states, unknown, following, ended)


def leases_of(ended: Sequence[Ended]) -> list[str]:
    """The leases under which some of these were out."""
    return [each.stored.task.lease for each in ended if each.stored.task.lease]

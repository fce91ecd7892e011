"""Tasks that move by themselves: due, dispatched, over; and what a starting scheduler has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from common.quotas import Quota, Scope
from common.states import Due, Expired, Rules, transition
from scheduler_service.operations.applying import Ended, end
from scheduler_service.storage import claims, lanes, marks, queues, quotas, tasks, waiting
from scheduler_service.storage.claims import ClaimedTask, Turn
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.lanes import WaitingLane
from scheduler_service.storage.quotas import Limited, Used
from scheduler_service.storage.tasks import StoredTask


class Claimed(Struct):
    """What was claimed in one turn.

    Attributes:
        tasks: the dispatches.
        ended: those whose turn it was, and whose time is over.
        found: how many of both, by the number of their lane.
    """

    tasks: list[ClaimedTask]
    ended: list[Ended]
    found: dict[int, int]


def claim(
    connection: Connection,
    turns: Sequence[Turn],
    spans: Mapping[Limited, float],
    rules: Rules,
    mark: int,
    now: float,
) -> list[Claimed]:
    """Dispatch queued tasks, each turn at most as many as it has placements; what is over ends instead.

    Args:
        connection: in a transaction.
        turns: whose turn it is, in order.
        spans: the seconds of each rate's span, by scope and name.
        rules: the limits of the transition function.
        mark: up to which dispatch the broker has confirmed.
        now: the time, seconds since the epoch.

    Returns:
        What became of each turn.
    """
    claimed: list[Claimed] = []
    for taken, over, found in claims.claim(connection, turns, now):
        ended = end(connection, list(tasks.load(connection, over).values()), Expired(), rules, now) if over else []
        claimed.append(Claimed(taken, ended, found))
    if spans:
        note_dispatched(
            connection,
            spans,
            ((task.queue, task.assignment.task, task.key) for each in claimed for task in each.tasks),
            now,
        )
    marks.write(connection, marks.CONFIRMED, mark)
    return claimed


def note_dispatched(
    connection: Connection, spans: Mapping[Limited, float], dispatched: Iterable[tuple[str, str, str]], now: float
) -> None:
    """Remember for a restart what is dispatched under rates: (queue, task function, key) of each."""
    counts: Counter[Limited] = Counter()
    for names in dispatched:
        for scope, name in zip((Scope.QUEUE, Scope.TASK, Scope.KEY), names, strict=True):
            if (scope.value, name) in spans:
                counts[scope.value, name] += 1
    quotas.use(connection, spans, counts, now)


class Ripened(Struct):
    """What a look at the clock has moved.

    Attributes:
        due: scheduled tasks that are queued now.
        ended: waiting tasks that have expired.
        next: when something is next to be moved, seconds since the epoch; None when nothing waits.
        full: there is more to be moved now.
    """

    due: list[StoredTask]
    ended: list[Ended]
    next: float | None
    full: bool


def ripen(connection: Connection, rules: Rules, limit: int, now: float) -> Ripened:
    """Queue scheduled tasks whose time has come, and end waiting ones whose time is over; `limit` of each at most."""
    over = waiting.over(connection, now, limit)
    ended = end(connection, over, Expired(), rules, now) if over else []
    ripe = waiting.due(connection, now, limit)
    if ripe:
        tasks.save(connection, [(stored, transition(stored.task, Due(), now, rules).task) for stored in ripe], now)
    full = len(ripe) == limit or len(over) == limit
    return Ripened(ripe, ended, waiting.next_moment(connection), full)


class Outset(Struct):
    """What the store holds when the scheduler starts.

    Attributes:
        dispatched: the tasks that are out.
        confirmed: the mark up to which the broker has confirmed dispatches.
        backlog: the lanes in which tasks are queued.
        quotas: every quota that was set.
        used: what was dispatched lately under rates, in order.
    """

    dispatched: list[ClaimedTask]
    confirmed: int
    backlog: list[WaitingLane]
    quotas: list[Quota]
    used: list[Used]


def outset(connection: Connection, now: float) -> Outset:
    """Read what a starting scheduler has to know."""
    return Outset(
        claims.dispatched(connection, now),
        marks.read(connection, marks.CONFIRMED),
        lanes.waiting(connection),
        quotas.read(connection),
        quotas.used(connection),
    )


def known_queues(connection: Connection) -> set[str]:
    """Every work queue that was made, or will be for what waits."""
    return queues.names(connection) | claims.backlog(connection).keys() | waiting.scheduled(connection).keys()


def add_queue(connection: Connection, name: str) -> None:
    """Remember a work queue that is about to be made."""
    queues.add(connection, name)


def count_scheduled(connection: Connection) -> dict[str, int]:
    """How many tasks are scheduled, by queue."""
    return waiting.scheduled(connection)


def oldest(connection: Connection, numbers: Sequence[int]) -> dict[int, float]:
    """Since when the first task of each of these lanes has been due, seconds since the epoch."""
    return lanes.oldest(connection, numbers)


def count_unfinished(connection: Connection) -> dict[tuple[str, str], int]:
    """How many unfinished tasks there are by (queue, state); reads indexes of them, and nothing of what has ended."""
    counted: Counter[tuple[str, str]] = Counter()
    for lane in lanes.waiting(connection):
        counted[lane.queue, "queued"] += lane.count
    for queue, count in waiting.scheduled(connection).items():
        counted[queue, "scheduled"] = count
    for queue, count in claims.count_dispatched(connection).items():
        counted[queue, "dispatched"] = count
    return dict(counted)


def write_mark(connection: Connection, mark: int) -> None:
    """Note up to which dispatch the broker has confirmed."""
    marks.write(connection, marks.CONFIRMED, mark)

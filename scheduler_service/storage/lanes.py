"""Statements on lanes: how many tasks wait in each, which are next, and how long the first has waited.

However many lanes are asked about, they travel as one parameter: a claim over a thousand of them is a few statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Connection, Select, bindparam, column, func, select, text, true

from common.options import TaskOptions
from scheduler_service.storage.prepared import run_compiled
from scheduler_service.storage.schema import QUEUED, tasks
from scheduler_service.storage.tasks import due_since

_options = msgspec.json.Decoder(TaskOptions)
_queued = text(QUEUED)
PAGE = 500
"""Lanes that are described in one statement."""


class WaitingLane(Struct, gc=False):
    """A lane in which tasks wait.

    Attributes:
        number: of the lane.
        queue, priority, task, key, requires: of its first task; those of every one, unless the lane is one in which
            what is left over is collected.
        count: how many are queued.
        oldest: when the first of them was due, seconds since the epoch.
    """

    number: int
    queue: str
    priority: int
    task: str
    key: str
    requires: tuple[str, ...]
    count: int
    oldest: float


class FirstOf:
    """One SELECT of the first queued tasks of each of many lanes: (lane, place in the store order)."""

    def __init__(self) -> None:
        self._compiled: Any = None

    def run(self, connection: Connection, lanes: Sequence[int], limit: int) -> Iterable[Sequence[int]]:
        """Up to `limit` places of each of `lanes`, in order within each lane."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement(), {"lanes": list(lanes), "n": limit}).all()
        if self._compiled is None:
            self._compiled = self.statement_of_sqlite().compile(dialect=connection.dialect)
        given = {"lanes": msgspec.json.encode(lanes).decode(), "n": limit}
        rows: list[Sequence[int]] = list(run_compiled(connection, self._compiled, given).all())
        rows.sort(key=lambda row: row[1])
        return rows

    @staticmethod
    def statement() -> Select[Any]:
        """For a database that knows LATERAL."""
        wanted = func.unnest(bindparam("lanes"), type_=BigInteger).table_valued(column("lane", BigInteger)).alias("w")
        first = (
            select(tasks.c.seq)
            .where(_queued, tasks.c.lane == wanted.c.lane)
            .order_by(tasks.c.seq)
            .limit(bindparam("n"))
            .with_for_update(skip_locked=True)
            .lateral("f")
        )
        return select(wanted.c.lane, first.c.seq).select_from(wanted.join(first, true())).order_by(first.c.seq)

    @staticmethod
    def statement_of_sqlite() -> Select[Any]:
        """For SQLite, which knows no LATERAL, but searches by the list of a subquery for each lane."""
        wanted = func.json_each(bindparam("lanes")).table_valued(column("value", BigInteger)).alias("w")
        inner = tasks.alias("q")
        first = (
            select(inner.c.seq)
            .where(text(f"q.{QUEUED}"), inner.c.lane == wanted.c.value)
            .order_by(inner.c.seq)
            .limit(bindparam("n"))
            .correlate(wanted)
        )
        found = tasks.alias("t")
        return select(wanted.c.value, found.c.seq).select_from(wanted, found).where(found.c.seq.in_(first))


first_of = FirstOf()

_counts = select(tasks.c.lane, func.count(), func.min(tasks.c.seq)).where(_queued).group_by(tasks.c.lane)
_described = select(
    tasks.c.seq,
    tasks.c.queue,
    tasks.c.priority,
    tasks.c.task,
    tasks.c.key,
    tasks.c.options,
    tasks.c.submitted_at,
)


def waiting(connection: Connection) -> list[WaitingLane]:
    """Every lane in which tasks are queued; reads an index of them all."""
    counted = [(row[0], row[1], row[2]) for row in connection.execute(_counts)]
    found: list[WaitingLane] = []
    for at in range(0, len(counted), PAGE):
        page = counted[at : at + PAGE]
        rows = connection.execute(_described.where(tasks.c.seq.in_([first for _, _, first in page])))
        heads = {row[0]: row for row in rows}
        for number, count, first in page:
            _, queue, priority, task, key, options, submitted_at = heads[first]
            since = submitted_at if options is None else due_since(options, submitted_at)
            found.append(WaitingLane(number, queue, priority, task, key or "", required(options), count, since))
    return found


def required(options: str | None) -> tuple[str, ...]:
    """The labels that stored options ask for."""
    if options is None or '"requires"' not in options:
        return ()
    return tuple(_options.decode(options).requires or ())


def oldest(connection: Connection, lanes: Sequence[int]) -> dict[int, float]:
    """Since when the first task of each of these lanes has been due, seconds since the epoch."""
    heads = {seq: lane for lane, seq in first_of.run(connection, lanes, 1)}
    found: dict[int, float] = {}
    places = list(heads)
    for at in range(0, len(places), PAGE):
        rows = connection.execute(
            select(tasks.c.seq, tasks.c.submitted_at, tasks.c.options).where(tasks.c.seq.in_(places[at : at + PAGE]))
        )
        for seq, submitted_at, options in rows:
            found[heads[seq]] = submitted_at if options is None else due_since(options, submitted_at)
    return found


def choose(
    turns: Sequence[tuple[Sequence[int], int]], known: Mapping[int, Sequence[int]], whole: frozenset[int] | set[int]
) -> tuple[list[list[tuple[int, int]]], set[int]]:
    """Which tasks go, by turns; inside a turn in store order across its lanes. Pure.

    Args:
        turns: (lanes, how many) in order; a lane may stand in several.
        known: the first places of each lane, in order.
        whole: the lanes of which all are known.

    Returns:
        For each turn the (place, lane) of those that go, and the lanes of which more has to be known first: when there
        are any, the choice is not to be used.
    """
    taken = dict.fromkeys(known, 0)
    short: set[int] = set()
    chosen: list[list[tuple[int, int]]] = []
    for lanes, count in turns:
        heads: list[tuple[int, int]] = []
        for lane in lanes:
            places = known.get(lane, ())
            start = taken.get(lane, 0)
            heads += [(seq, lane) for seq in places[start : start + count]]
            if len(places) - start < count and lane not in whole:
                # It matters only if what is known of it is used up before the turn is over.
                heads.append((places[-1] + 1 if places else 0, -lane - 1))
        heads.sort()
        picked: list[tuple[int, int]] = []
        for seq, lane in heads:
            if len(picked) == count:
                break
            if lane < 0:
                short.add(-lane - 1)
                continue
            picked.append((seq, lane))
            taken[lane] += 1
        chosen.append(picked)
    return chosen, short


def next_places(connection: Connection, turns: Sequence[tuple[Sequence[int], int]]) -> list[list[tuple[int, int]]]:
    """The (place, lane) of what goes next, for each turn (lanes, how many): in store order across the turn's lanes.

    Of each lane first about its share is read, and four times as many when that was too few.
    """
    needs: dict[int, int] = {}
    pending: dict[int, int] = {}
    for lanes, count in turns:
        share = count if len(lanes) <= 1 else min(count, 2 * count // len(lanes) + 1)
        for lane in lanes if count > 0 else ():
            needs[lane] = needs.get(lane, 0) + count
            pending[lane] = max(pending.get(lane, 0), share)
    known: dict[int, list[int]] = {}
    whole: set[int] = set()
    while True:
        by_depth: dict[int, list[int]] = {}
        for lane, depth in pending.items():
            by_depth.setdefault(depth if len(pending) == 1 else _step(depth), []).append(lane)
        for depth, lanes in by_depth.items():
            known |= {lane: [] for lane in lanes}
            for lane, seq in first_of.run(connection, lanes, depth):
                known[lane].append(seq)
            whole.update(lane for lane in lanes if len(known[lane]) < depth or depth >= needs[lane])
        chosen, short = choose(turns, known, whole)
        if not short:
            return chosen
        pending = {lane: 4 * len(known[lane]) for lane in short}


def _step(depth: int) -> int:
    """`depth` rounded up to a power of two, so that lanes share statements."""
    return 1 << max(0, depth - 1).bit_length()

"""Timers on a real store, by a clock that the test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from sqlalchemy import Connection

from common.states import State
from common.telemetry import Telemetry
from scheduler_service import events, timers
from scheduler_service.fleet.lanes import Lane
from scheduler_service.operations import Ended
from scheduler_service.storage.store import Store
from scheduler_service.timers import Timers
from tests.support.storage import NOW, RULES, accept, load, new
from tests.support.waiting import eventually


class Clock:
    """What the test says."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Watched:
    """Timers, and what they have said."""

    def __init__(self, store: Store) -> None:
        self.clock = Clock()
        self.queued: Counter[str] = Counter()
        self.ended: list[str] = []
        self.late: list[float] = []
        telemetry = Telemetry()
        telemetry.on(events.Ripened, lambda event: self.late.extend(event.late))
        self.timers = Timers(
            store,
            RULES,
            queued=self._queue,
            ended=self._end,
            doubt=self._doubt,
            telemetry=telemetry,
            report=self._report,
            clock=self.clock,
        )

    def _queue(self, lane: Lane, count: int, since: float) -> None:
        self.queued[lane.queue] += count
        self.since = since

    def _end(self, ended: Sequence[Ended]) -> None:
        self.ended += [each.stored.id for each in ended]

    def _doubt(self) -> None:
        raise AssertionError("the store is there")

    def _report(self, name: str, error: BaseException) -> None:
        raise AssertionError(name) from error


@pytest.fixture
async def watched(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    """Running timers that look often."""
    monkeypatch.setattr(timers, "LONGEST_SLEEP", 0.05)
    made = Watched(store)
    await made.timers.start()
    yield made
    await made.timers.stop()


async def looked(watched: Watched) -> None:
    """Wait until the timers have looked at the clock as it is now."""
    looks = 0
    original = watched.timers._look

    async def look() -> None:
        nonlocal looks
        await original()
        looks += 1

    watched.timers._look = look  # type: ignore[method-assign]
    await eventually(lambda: looks >= 2)
    watched.timers._look = original  # type: ignore[method-assign]


async def test_a_clock_that_is_set_forth_and_back_neither_loses_nor_doubles_a_task(
    store: Store, watched: Watched
) -> None:
    hour = 3600.0
    tasks = [new(due_at=NOW + seconds) for seconds in (10, hour / 2, 2 * hour)]
    await accept(store, *tasks)
    watched.timers.scheduled("default", 3)
    watched.timers.expect(NOW + 10)
    await looked(watched)
    assert watched.queued == {}
    watched.clock.now = NOW - hour
    await looked(watched)
    assert watched.queued == {}
    watched.clock.now = NOW + hour
    await eventually(lambda: watched.queued == {"default": 2})
    watched.clock.now = NOW
    await looked(watched)
    assert watched.queued == {"default": 2}
    assert watched.timers.waiting == {"default": 1}
    watched.clock.now = NOW + 2 * hour
    await eventually(lambda: watched.queued == {"default": 3})
    await looked(watched)
    assert watched.queued == {"default": 3}
    assert watched.timers.waiting == {}
    assert {(await load(store, task.message.id)).task.state for task in tasks} == {State.QUEUED}


async def test_what_is_over_ends_once_wherever_it_waits(store: Store, watched: Watched) -> None:
    tasks = [new(expires_at=NOW + 5), new(expires_at=NOW + 5, due_at=NOW + 9), new(expires_at=NOW + 60)]
    await accept(store, *tasks)
    watched.clock.now = NOW + 10
    await eventually(lambda: watched.ended)
    await looked(watched)
    assert sorted(watched.ended) == sorted(task.message.id for task in tasks[:2])
    assert watched.queued == {}


async def test_more_than_a_batch_goes_without_waiting(store: Store, watched: Watched) -> None:
    await accept(store, *(new(due_at=NOW + 1) for _ in range(2 * timers.BATCH + 5)))
    watched.clock.now = NOW + 1
    watched.timers.expect(NOW + 1)
    await eventually(lambda: watched.queued == {"default": 2 * timers.BATCH + 5})


async def test_what_waits_is_found_by_its_index(store: Store) -> None:
    """A million delayed tasks cost a look at the clock nothing."""

    def plans(connection: Connection) -> list[str]:
        return [
            str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all())
            for sql in (
                "SELECT * FROM tasks WHERE state = 'scheduled' AND due_at <= 5 ORDER BY due_at LIMIT 5",
                "SELECT * FROM tasks WHERE expires_at IS NOT NULL AND state IN ('queued', 'scheduled') "
                "AND expires_at <= 5 ORDER BY expires_at LIMIT 5",
            )
        ]

    if store._engine.dialect.name != "sqlite":
        pytest.skip("its planner decides by what is in the table")
    due, over = await store.run(plans)
    assert "ix_tasks_due (due_at<?)" in due
    assert "ix_tasks_expiring (expires_at" in over


async def test_how_late_each_task_was_queued_is_told(store: Store, watched: Watched) -> None:
    await accept(store, new(due_at=NOW + 10), new(due_at=NOW + 12.5))
    watched.clock.now = NOW + 13
    watched.timers.expect(NOW + 10)
    await eventually(lambda: len(watched.late) == 2)
    assert sorted(watched.late) == [0.5, 3.0]

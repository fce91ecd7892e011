"""What is old goes, with all that belongs to it, in small batches; what is young or unfinished stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from sqlalchemy import Connection, text

from common.options import TaskOptions
from common.questions import AskKind, Statuses
from common.states import Failed, Succeeded
from common.wire import ErrorInfo, ErrorKind
from deploy.local import Broker
from scheduler_service import events, janitor, operations
from scheduler_service.storage import tasks
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker
from tests.support.storage import NOW, accept, apply, claim, new
from tests.support.waiting import eventually

WEEK = 7 * 86_400.0
BOOM = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", "boom")


async def finished(store: Store, **more: Any) -> str:
    """The id of a task that ended at NOW + 2."""
    task = new(**more)
    await accept(store, task)
    (claimed,) = await claim(store, "default", 1)
    lease = claimed.assignment.lease
    event = Failed(1, lease, BOOM) if more.get("task") == "bad" else Succeeded(1, lease, Raw(b"5"))
    await apply(store, (task.message.id, event))
    return task.message.id


async def counts(store: Store) -> dict[str, int]:
    def read(connection: Connection) -> dict[str, int]:
        names = ("tasks", "attempts", "aliases", "keys", "parked")
        return {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}

    return await store.run(read)


async def walked(store: Store, now: float, limit: int = 2) -> int:
    """Walk to the end; returns how many tasks were forgotten."""
    after: int | None = 0
    total = 0
    while after is not None:
        pruned = await store.run(operations.prune, after, WEEK, limit, now)
        assert pruned.tasks <= limit
        total += pruned.tasks
        after = pruned.next
    return total


async def test_what_ended_long_ago_is_forgotten_with_all_that_belongs_to_it(store: Store) -> None:
    keyed = TaskOptions(idempotency_key="k")
    await finished(store, options=keyed)
    await accept(store, new(options=keyed))
    for _ in range(3):
        await finished(store, task="bad")
    await accept(store, new())
    await store.run(operations.park, [ParkedMessage("submit", "undecodable", "", b"x")], NOW)
    before = {"tasks": 5, "attempts": 3, "aliases": 1, "keys": 1, "parked": 1}
    assert await counts(store) == before
    assert await walked(store, NOW + WEEK - 1) == 0
    assert await counts(store) == before
    assert await walked(store, NOW + WEEK + 2) == 4
    assert await counts(store) == {"tasks": 1, "attempts": 0, "aliases": 0, "keys": 0, "parked": 0}
    assert await walked(store, NOW + 100 * WEEK) == 0


async def test_what_waits_stays_and_does_not_hide_what_is_behind_it(store: Store) -> None:
    for _ in range(5):
        await accept(store, new(due_at=NOW + 1000 * WEEK))
    await finished(store)
    assert await walked(store, NOW + 2 * WEEK) == 1
    assert (await counts(store))["tasks"] == 5


async def test_a_task_may_say_itself_for_how_long_it_is_kept(store: Store) -> None:
    short = await finished(store, options=TaskOptions(result_ttl=10), ttl=10.0)
    long = await finished(store, options=TaskOptions(result_ttl=2 * WEEK), ttl=2 * WEEK)
    assert await store.run(operations.prune_own, 10, NOW + 11) == 0
    assert await store.run(operations.prune_own, 10, NOW + 12) == 1
    assert list(await store.run(tasks.load, [short, long])) == [long]
    assert await walked(store, NOW + 1.5 * WEEK) == 0
    assert await store.run(operations.prune_own, 10, NOW + 2 * WEEK + 2) == 1


async def test_a_running_scheduler_forgets_by_itself(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "OFTEN", 0.05)
    pruned: Counter[str] = Counter()
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, result_ttl=0.1) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace),
    ):

        def count(event: events.Pruned) -> None:
            pruned["tasks"] += event.tasks

        scheduler.scheduler.telemetry.on(events.Pruned, count)
        kept, *ids = await producer.submit({"options": {"result_ttl": 60}}, {}, {"options": {"result_ttl": 0}}, {})
        await producer.results([kept])
        await eventually(lambda: pruned["tasks"] == 3)
        answer = await producer.ask(AskKind.STATUS, [kept, *ids])
        assert isinstance(answer, Statuses)
        assert ([each.id for each in answer.statuses], answer.unknown) == ([kept], ids)

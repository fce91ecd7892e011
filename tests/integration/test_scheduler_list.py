"""Lists on a real broker: by filter, page by page, and what they say of each task; and queues that are remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.questions import Filter, ListTasks, TaskStatus
from deploy.local import Broker
from scheduler_service.storage import search
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker
from tests.support.waiting import eventually


async def listed(producer: Producer, *, limit: int = 100, **where: Any) -> list[TaskStatus]:
    """The tasks of all pages."""
    found: list[TaskStatus] = []
    after = None
    while True:
        page = await producer.request(ListTasks(Filter(**where), after, limit))
        found += page.statuses
        after = page.next
        if after is None:
            return found


async def test_all_are_listed_once_the_newest_first(
    scheduler: RunningScheduler, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SCAN", 10)
    ids = await producer.submit(*({"args": [n, 1]} for n in range(35)))
    await eventually(lambda: scheduler.submitted == 35)
    for limit in (1000, 10, 7, 1):
        assert [each.id for each in await listed(producer, limit=limit)] == ids[::-1]
    page = await producer.request(ListTasks(Filter(), limit=7))
    assert [each.id for each in page.statuses] == ids[:-8:-1]


async def test_each_part_of_a_filter_counts(scheduler: RunningScheduler, producer: Producer) -> None:
    plain, mail, mine, later = await producer.submit(
        {},
        {"task": "mail.send", "queue": "email"},
        {"options": {"key": "acme", "labels": {"a": "1", "b": "2"}, "parent": "p"}},
        {"options": {"delay": 60, "labels": {"a": "1"}}},
    )
    await eventually(lambda: scheduler.submitted == 4)
    status = (await listed(producer, key="acme"))[0]
    since = status.submitted_at
    filters: list[tuple[dict[str, Any], list[str]]] = [
        ({"task": "mail.send"}, [mail]),
        ({"queue": "email"}, [mail]),
        ({"key": "acme"}, [mine]),
        ({"labels": {"a": "1"}}, [later, mine]),
        ({"labels": {"a": "1", "b": "2"}}, [mine]),
        ({"labels": {"a": "2"}}, []),
        ({"states": ["scheduled"]}, [later]),
        ({"states": ["queued", "succeeded"]}, [mine, mail, plain]),
        ({"ids": [plain, later]}, [later, plain]),
        ({"ids": [plain, later], "states": ["queued"]}, [plain]),
        ({"since": since + 60}, []),
        ({"until": since - 60}, []),
        ({"since": since - 60, "until": since + 60}, [later, mine, mail, plain]),
    ]
    for where, expected in filters:
        assert [each.id for each in await listed(producer, **where)] == expected, where
    assert (status.key, status.labels, status.parent) == ("acme", {"a": "1", "b": "2"}, "p")


async def test_nobody_lists_the_tasks_of_others(scheduler: RunningScheduler, producer: Producer) -> None:
    ids = await producer.submit({}, {})
    await eventually(lambda: scheduler.submitted == 2)
    await scheduler.executed(f"UPDATE tasks SET owner = 'bob' WHERE id = '{ids[0]}'")
    assert [each.id for each in await listed(producer)] == [ids[1]]
    assert await listed(producer, ids=ids[:1]) == []


async def test_the_limit_of_queues_holds_after_a_restart(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> None:
    """Also for queues in which nothing waits any more: they exist on the broker."""
    async with Producer(broker.url, namespace) as producer:
        async with (
            RunningScheduler(broker.url, namespace, tmp_path, max_queues=2),
            StandInWorker(broker.url, namespace, queues=["one"]),
        ):
            (first,) = await producer.submit({"queue": "one"})
            await producer.result(first)
        async with RunningScheduler(broker.url, namespace, tmp_path, max_queues=2) as scheduler:
            _, third = await producer.submit({"queue": "two", "options": {"delay": 60}}, {"queue": "three"})
            assert (await producer.result(third)).state == "failed"
            assert scheduler.parked == {("submit", "too_many_queues"): 1}
        async with RunningScheduler(broker.url, namespace, tmp_path, max_queues=2) as scheduler:
            (fourth,) = await producer.submit({"queue": "four"})
            assert (await producer.result(fourth)).state == "failed"

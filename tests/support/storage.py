"""A few words to speak about stores in tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from common.ids import new_task_id
from common.options import TaskOptions
from common.states import Event, Rules
from common.wire import TaskMessage
from scheduler_service import operations
from scheduler_service.fleet.lanes import lane
from scheduler_service.operations import Report
from scheduler_service.storage import lanes, tasks
from scheduler_service.storage.claims import ClaimedTask, Turn
from scheduler_service.storage.lanes import WaitingLane
from scheduler_service.storage.store import Store
from scheduler_service.storage.tasks import NewTask, Placement, StoredTask

NOW = 1_700_000_000.0
RULES = Rules(max_crashes=2, unknown_function_grace=60.0, unknown_function_wait=1.0)


def new(queue: str = "default", priority: int = 4, **more: Any) -> NewTask:
    options = more.pop("options", None)
    if options is None and more.keys() & {"due_at", "expires_at", "ttl"}:
        options = TaskOptions()
    message = TaskMessage(
        more.pop("id", new_task_id()), more.pop("task", "add"), queue=queue, priority=priority, options=options
    )
    args, kwargs = more.pop("args", "[1]"), more.pop("kwargs", "{}")
    task = NewTask(message, args, kwargs, more.pop("owner", "anna"), more.pop("reply_to", "inbox"), **more)
    key, requires = ("", ()) if options is None else (options.key, options.requires)
    task.lane = lane(queue, priority, message.task, key, requires).number
    return task


def lane_number(*of: Any) -> int:
    return lane(*of).number


def placements(count: int, first: int = 1) -> list[Placement]:
    return [Placement(f"lease-{number}", number) for number in range(first, first + count)]


async def accept(store: Store, *new_tasks: NewTask) -> operations.Accepted:
    return await store.run(operations.accept, new_tasks, [], 0, NOW)


async def accept_carefully(store: Store, *new_tasks: NewTask) -> operations.Accepted:
    return await store.run(operations.accept_carefully, new_tasks, [], 0, NOW)


async def claim(store: Store, queue: str, count: int, first: int = 1, mark: int = 0) -> list[ClaimedTask]:
    """The next of a queue by priority, then store order."""
    by_priority: dict[int, list[WaitingLane]] = {}
    for waiting in await store.run(lanes.waiting):
        if waiting.queue == queue:
            by_priority.setdefault(waiting.priority, []).append(waiting)
    turns, left = [], placements(count, first)
    for _, mine in sorted(by_priority.items(), reverse=True):
        size = sum(waiting.count for waiting in mine)
        turns.append(Turn([waiting.number for waiting in mine], left[:size]))
        left = left[size:]
    claimed = await store.run(operations.claim, turns, {}, RULES, mark, NOW + 1)
    return [task for each in claimed for task in each.tasks]


async def dispatched(store: Store) -> tuple[str, str]:
    """The id and the lease of one task that is out."""
    task = new()
    await accept(store, task)
    (claimed,) = await claim(store, "default", 1)
    return task.message.id, claimed.assignment.lease


async def apply(store: Store, *events: tuple[str, Event], mark: int = 0) -> operations.Outcomes:
    reports = [Report(id_, event, "worker-1", 0.5) for id_, event in events]
    return await store.run(operations.apply, reports, RULES, mark, NOW + 2)


async def load(store: Store, id_: str) -> StoredTask:
    return (await store.run(tasks.load, [id_]))[id_]


async def parked_rows(store: Store) -> Sequence[Any]:
    def rows(connection: Connection) -> Sequence[Any]:
        return connection.execute(text("SELECT origin, reason, detail, payload, owner FROM parked ORDER BY seq")).all()

    return await store.run(rows)


class Blocked:
    """Holds the store's thread in a transaction, so that what comes meanwhile meets in the next one."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._there = threading.Event()
        self._go = threading.Event()

    def _wait(self, connection: Connection) -> None:
        self._there.set()
        assert self._go.wait(10.0)

    async def __aenter__(self) -> None:
        self.task = asyncio.create_task(self.store.run(self._wait))
        assert await asyncio.to_thread(self._there.wait, 10.0)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # those who wait in the block have put theirs
        self._go.set()
        await self.task

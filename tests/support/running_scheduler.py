"""A real scheduler in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
from sqlalchemy import Connection, text

from common.states import Task
from scheduler_service import events
from scheduler_service.app import Scheduler
from scheduler_service.settings import SchedulerSettings
from scheduler_service.storage import tasks
from tests.support.stand_in_worker import StandInWorker
from tests.support.waiting import eventually


class ParkedRow(NamedTuple):
    """What is kept of something refused."""

    origin: str
    reason: str
    detail: str
    payload: bytes
    owner: str | None
    headers: dict[str, str]


class RunningScheduler:
    """Started on entering, drained and stopped on leaving.

    Args:
        url: the broker.
        namespace: the test's own.
        folder: where the database is.
        settings: others than the defaults.

    Attributes:
        parked: how often what was parked, by (origin, reason).
        returned: how many tasks came back, by (queue, reason).
        submitted: how many tasks were stored.
        lost: dispatches that were found in nobody's hands, and those of them that became suspects.
    """

    def __init__(self, url: str, namespace: str, folder: Path, **settings: Any) -> None:
        given: dict[str, Any] = {
            "amqp_url": url,
            "namespace": namespace,
            "database_url": f"sqlite:///{folder}/warren.db",
            "http": False,
            "rescue_interval": 0.3,
            "dead_after": 3.0,
        }
        self.scheduler = Scheduler(SchedulerSettings(**(given | settings)))
        self.parked: Counter[tuple[str, str]] = Counter()
        self.lost: Counter[str] = Counter()
        self.returned: Counter[tuple[str, str]] = Counter()
        self.scheduler.telemetry.on(events.Parked, self._on_parked)
        self.scheduler.telemetry.on(events.Returned, self._on_returned)
        self.scheduler.telemetry.on(events.Lost, self._on_lost)
        self.scheduler.telemetry.on(events.Submitted, self._on_submitted)
        self.submitted = 0
        self._task: asyncio.Task[int] | None = None

    def _on_parked(self, event: events.Parked) -> None:
        self.parked[event.origin, event.reason] += event.count

    def _on_returned(self, event: events.Returned) -> None:
        self.returned[event.queue, event.reason] += event.count

    def _on_submitted(self, event: events.Submitted) -> None:
        self.submitted += sum(event.by_queue.values())

    def _on_lost(self, event: events.Lost) -> None:
        self.lost["lost"] += event.count
        self.lost["suspects"] += event.suspects

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.scheduler.run())
        await eventually(lambda: self._task is None or self._task.done() or self.ready)
        if self._task.done():
            await self._task
            raise AssertionError("the scheduler ended at once")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert await self.stop() == 0

    @property
    def faults(self) -> Mapping[str, str]:
        """What keeps it from being ready, by check; empty when it is."""
        checks = {
            "broker": self.scheduler._broker_check,
            "consumers": self.scheduler._consumer_check,
            "store": self.scheduler._store_check,
        }
        return {name: fault for name, check in checks.items() if (fault := check())}

    @property
    def ready(self) -> bool:
        """As `/readyz` says."""
        return not self.faults

    @property
    def confirmed(self) -> int:
        """How many tasks are out in bundles that the broker has confirmed."""
        return sum(flight.confirmed for flight in self.scheduler._flights.by_lease.values())

    async def hears(self, *workers: StandInWorker) -> None:
        """Wait until these workers are known."""
        names = {worker.name for worker in workers}
        await eventually(lambda: names <= set(self.scheduler._directory.workers))

    async def stop(self) -> int | None:
        """Drain and stop, once; the exit code."""
        task, self._task = self._task, None
        if task is None:
            return 0
        self.scheduler.service.drain()
        return await task

    async def cut_short(self) -> None:
        """Stop without a drain: what is in flight stays as it is, as after a kill."""
        task, self._task = self._task, None
        assert task is not None
        self.scheduler.service.drain()
        self.scheduler.service.drain()
        await task

    async def rows(self) -> list[ParkedRow]:
        """Everything parked, in order."""

        def read(connection: Connection) -> list[ParkedRow]:
            columns = "origin, reason, detail, payload, owner, headers"
            found = connection.execute(text(f"SELECT {columns} FROM parked ORDER BY seq"))
            return [ParkedRow._make((*row[:5], msgspec.json.decode(row[5]))) for row in found]

        return await self.scheduler.store.run(read)

    async def task(self, id_: str) -> Task:
        """A task as it is stored."""
        return (await self.scheduler.store.run(tasks.load, [id_]))[id_].task

    async def executed(self, sql: str) -> None:
        """Run SQL in the scheduler's own connection."""

        def run(connection: Connection) -> None:
            connection.exec_driver_sql(sql)

        await self.scheduler.store.run(run)

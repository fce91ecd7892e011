"""Two worlds in which Warren's behaviour is the same: `WarrenTest`, and real services on RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from common import AsyncClient
from common.tasks import registry
from common.testing import WarrenTest
from deploy.local import Broker
from tests.support import behaviour_tasks
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_scheduler import RunningWorker, worker_settings

SLOTS: Final = 2
SCHEDULER: Final[dict[str, Any]] = {"unknown_function_grace": 0.3}
WORKER: Final[dict[str, Any]] = {"timeout_grace": 0.2, "beat_interval": 0.1, "processes": 1}


class World(Protocol):
    """A scheduler, a worker of two slots with `tests.support.behaviour_tasks`, a client, and time."""

    client: AsyncClient

    async def advance(self, seconds: float) -> None:
        """Let time pass."""


class RealWorld:
    """On RabbitMQ, where time passes by itself."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def advance(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    """`WarrenTest`."""
    tasks = {name: each for name, each in registry.items() if each.__module__ == behaviour_tasks.__name__}
    async with WarrenTest(tasks, slots=SLOTS, settings={"scheduler": SCHEDULER, "worker": WORKER}) as warren:
        yield warren


@asynccontextmanager
async def real_world(broker: Broker, namespace: str, folder: Path) -> AsyncIterator[World]:
    """A scheduler and a worker as they are in production, but in the test's process."""
    more = {"modules": [behaviour_tasks.__name__], "slots": SLOTS, "drain_timeout": 0.0, **WORKER}
    settings = worker_settings(broker.url, namespace, **more)
    async with (
        RunningScheduler(broker.url, namespace, folder, **SCHEDULER),
        RunningWorker(settings),
        AsyncClient(broker.url, namespace=namespace) as client,
    ):
        yield RealWorld(client)

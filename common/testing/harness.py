"""`WarrenTest`: the real scheduler, worker and client, over a broker in memory, with a clock that can be put forward.

Only the broker is another one (`common.broker.memory`), below the level of channels, and suspects are run in threads.
So the rules are those of production, and cannot drift. `common` imports no service: each says by the entry-point group
``warren.embedded`` how it is started inside a process.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Final, Protocol, Self

from common.broker import memory
from common.client.aio import AsyncClient
from common.errors import ResultTimeout
from common.tasks import TaskFunction, registry
from common.testing.clock import Clock

GROUP: Final = "warren.embedded"
LONGEST_STEP: Final = 600.0
"""Seconds that the clock is put forward at once at most; workers must not seem dead because of it."""
START_TIMEOUT: Final = 20.0
SETTLE_TIMEOUT: Final = 60.0
"""Real seconds that task functions may take between two steps of the clock."""
CALM: Final = 5
"""Rounds through all loops in which nothing has happened: then nothing will, until the clock moves."""


class Embedded(Protocol):
    """A service inside this process."""

    def activity(self) -> int:
        """A number that changes when something has happened."""

    def busy(self) -> bool:
        """Whether something is going on that needs no clock to end."""

    def next_due(self) -> float | None:
        """When something has to happen next, seconds since the epoch, as far as is known."""

    async def round(self) -> None:
        """Come round once through each of its threads."""

    async def start(self) -> None:
        """Start, and return when it works."""

    async def stop(self) -> None:
        """Drain and stop."""


class WarrenTest:
    """A whole Warren in this process.

    Args:
        tasks: the task functions; by default all that `task` has registered in this process.
        queues: the queues that the worker serves.
        slots: how many tasks run at a time.
        settings: settings of the services, by table: ``{"scheduler": {"max_crashes": 1}}``.

    Attributes:
        client: an `AsyncClient`, connected.

    Example:
        >>> async def test_add() -> None:
        ...     async with WarrenTest() as warren:
        ...         assert await warren.run("add", 2, 3) == 5
    """

    client: AsyncClient

    def __init__(
        self,
        tasks: Mapping[str, TaskFunction[..., Any]] | None = None,
        *,
        queues: tuple[str, ...] = ("default",),
        slots: int = 10,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._tasks = dict(registry if tasks is None else tasks)
        self._settings: dict[str, dict[str, Any]] = {
            "scheduler": {"dead_after": 6 * LONGEST_STEP},
            "worker": {"queues": queues, "slots": slots},
        }
        for table, values in (settings or {}).items():
            self._settings[table] |= values
        self._name = f"test-{secrets.token_hex(4)}"
        self._services: list[Embedded] = []
        self._clock = Clock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._clock)
            self._clock.wakes(asyncio.get_running_loop())
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="warren-test-"))
            stack.callback(memory.forget, self._name)
            url = f"memory://guest@{self._name}"
            shared = {"amqp_url": url, "http": False}
            for name in ("scheduler", "worker"):
                (point,) = entry_points(group=GROUP, name=name)
                make: Callable[..., Embedded] = point.load()
                service = make(shared | self._settings[name], folder, self._tasks, self._clock.wakes)
                async with asyncio.timeout(START_TIMEOUT):
                    await service.start()
                stack.push_async_callback(service.stop)
                self._services.append(service)
            self.client = await stack.enter_async_context(AsyncClient(url))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._services.clear()
        await self._stack.aclose()

    async def run(self, task: TaskFunction[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Submit a task, let it run, with the clock put forward as far as it needs, and return its result.

        Raises:
            TaskFailed, TaskCancelled, TaskExpired: as `AsyncHandle.result`.
            ResultTimeout: it is not finished and nothing is due: it waits for something that does not come.
        """
        handle = await self.client.submit(task, *args, **kwargs)
        await self.settle()
        while not handle.done():
            due = self._next_due()
            if due is None:
                raise ResultTimeout(f"task {handle.id} is not finished, and nothing is due", handle.id)
            await self._step_to(due)
        return await handle.result(timeout=1)

    async def advance(self, seconds: float) -> None:
        """Put the clock forward; what becomes due on the way happens at its time, in order.

        Args:
            seconds: 0 or more.
        """
        until = self._now() + seconds
        await self.settle()
        while (left := until - self._now()) > 0:
            due = self._next_due()
            step = min(left, LONGEST_STEP)
            if due is not None:
                step = min(step, max(due - self._now(), 0.001))
            self._clock.advance(step)
            await self.settle()

    async def settle(self) -> None:
        """Return when nothing happens any more until the clock is moved.

        Raises:
            TimeoutError: task functions went on for `SETTLE_TIMEOUT` real seconds.
        """
        deadline = self._clock.real() + SETTLE_TIMEOUT
        calm, seen = 0, -1
        while calm < CALM:
            if self._clock.real() > deadline:
                raise TimeoutError("something goes on and on; a task function that never ends?")
            await asyncio.sleep(0)
            for service in self._services:
                await service.round()
            activity = sum(service.activity() for service in self._services)
            busy = any(service.busy() for service in self._services) or not memory.memory_broker(self._name).quiet
            calm = calm + 1 if activity == seen and not busy else 0
            seen = activity

    async def _step_to(self, when: float) -> None:
        left = max(when - self._now(), 0.001)
        while left > 0:
            self._clock.advance(min(left, LONGEST_STEP))
            left -= LONGEST_STEP
            await self.settle()

    def _next_due(self) -> float | None:
        due = [service.next_due() for service in self._services]
        return min((at for at in due if at is not None), default=None)

    @staticmethod
    def _now() -> float:
        return time.time()

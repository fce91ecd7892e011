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
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

from common.background import Report
from common.broker import memory
from common.client.aio import AsyncClient, AsyncHandle
from common.errors import HarnessError, ResultTimeout
from common.lifecycle import EXIT_FAILED
from common.tasks import TaskFunction, registry
from common.testing.clock import Clock, movable
from common.testing.crash import Crash, GuardedClient

GROUP: Final = "warren.embedded"
STEP: Final = 600.0
"""Seconds that the clock is put forward at once at most, when it does not have far to go."""
STEPS: Final = 200
"""A long way is gone in about so many steps."""
LONGEST_STEP: Final = 86_400.0
"""Seconds that the clock is put forward at once at most; workers must not seem dead because of it."""
NAMESPACE: Final = "warren"
START_TIMEOUT: Final = 20.0
PATIENCE: Final = 60.0
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

    def running(self) -> list[str]:
        """The task functions that run now, each with the id of its task."""

    async def round(self) -> None:
        """Come round once through each of its threads."""

    async def start(self, ended: Report) -> None:
        """Start, and return when it works; `ended` is told when it is about to end by itself."""

    async def stop(self) -> int:
        """Drain and stop; its exit code."""


class WarrenTest:
    """A whole Warren in this process.

    Args:
        tasks: the task functions; by default all that `task` has registered in this process.
        queues: the queues that the worker serves.
        slots: how many tasks run at a time.
        settings: settings of the services, by table: ``{"scheduler": {"max_crashes": 1}}``.
        patience: real seconds that task functions may take between two steps of the clock, and `run` for all of them.

    Raises:
        HarnessError: on entering: no asyncio event loop runs here or its clock cannot be put forward, a service is not
            installed, or another harness runs in this process. On leaving: a service has crashed, which is its cause;
            what the test awaits at that moment is cancelled.

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
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._tasks = dict(registry if tasks is None else tasks)
        self._settings: dict[str, dict[str, Any]] = {
            "scheduler": {"dead_after": 6 * LONGEST_STEP},
            # What a test leaves running is of no interest to it: no time to drain.
            "worker": {"queues": queues, "slots": slots, "drain_timeout": 0.0},
        }
        for table, values in (settings or {}).items():
            if table not in self._settings:
                raise HarnessError(f"settings are for {' or '.join(self._settings)}, not for {table!r}")
            self._settings[table] |= values
        self._name = f"test-{secrets.token_hex(4)}"
        self._services: list[Embedded] = []
        self._clock = Clock()
        self._stack = AsyncExitStack()
        self._crash = Crash()

    async def __aenter__(self) -> Self:
        if self._services:
            raise HarnessError("this harness is running already; make another one for each test")
        loop = _running_loop()
        async with AsyncExitStack() as stack:
            self._clock = stack.enter_context(Clock())
            self._clock.wakes(loop)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="warren-test-"))
            stack.callback(memory.forget, self._name)
            url = f"memory://guest@{self._name}"
            shared = {"amqp_url": url, "namespace": NAMESPACE, "http": False}
            stack.callback(self._services.clear)
            for name in ("scheduler", "worker"):
                service = _service(name)(shared | self._settings[name], folder, self._tasks, self._clock.wakes)
                await _start(service, partial(self._ended, name))
                stack.push_async_callback(self._stop, name, service)
                self._services.append(service)
            self.client = await stack.enter_async_context(GuardedClient(self._crash, url, namespace=NAMESPACE))
            self._crash.guard(self.client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cancelled = await self._crash.leave(error)
        await self._stack.aclose()
        if not cancelled:
            self._crash.raise_over(error)

    def _ended(self, service: str, part: str, error: BaseException) -> None:
        """A service is about to end by itself: whoever waits for it would wait for ever."""
        self._crash.happened(service, part, error)

    async def _stop(self, name: str, service: Embedded) -> None:
        if await service.stop() == EXIT_FAILED:
            self._crash.happened(name, "its end", RuntimeError("it could not stop, the log says why"))

    def now(self) -> datetime:
        """The time by the clock that is put forward, in UTC; `datetime.now` always shows the real one."""
        return datetime.fromtimestamp(self._now(), UTC)

    async def run(self, task: TaskFunction[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Submit a task, let it run, with the clock put forward as far as it needs, and return its result.

        Raises:
            TaskFailed, TaskCancelled, TaskExpired: as `AsyncHandle.result`.
            HarnessError: it is not finished and nothing is due, or goes on for longer than `patience`.
        """
        handle = await self.client.submit(task, *args, **kwargs)
        deadline = self._clock.real() + self._patience
        await self.settle()
        while not handle.done():
            due = self._next_due()
            if due is None:
                raise HarnessError(f"{await self._unfinished(handle)}, and nothing is due. {self._who_runs()}")
            if self._clock.real() > deadline:
                spent = f"although the clock was put forward for {self._patience:g} real seconds"
                raise HarnessError(f"{await self._unfinished(handle)}, {spent}. {self._who_runs()}")
            await self._step_to(due)
        return await handle.result(timeout=1)

    async def advance(self, seconds: float) -> None:
        """Put the clock forward; what becomes due on the way happens at its time, in order.

        Args:
            seconds: 0 or more.

        Raises:
            HarnessError: as `settle`.
        """
        if seconds < 0:
            raise ValueError(f"the clock cannot go back, {seconds:g} s were asked for")
        until = self._now() + seconds
        await self.settle()
        while (left := until - self._now()) > 0:
            due = self._next_due()
            step = _step(left)
            if due is not None:
                step = min(step, max(due - self._now(), 0.001))
            self._clock.advance(step)
            await self.settle()

    async def settle(self) -> None:
        """Return when nothing happens any more until the clock is moved.

        Raises:
            HarnessError: task functions went on for `patience` real seconds; the text names them.
        """
        try:
            async with asyncio.timeout(self._patience):
                await self._calm()
        except TimeoutError:
            text = f"something goes on for {self._patience:g} real seconds, and no clock can end it. {self._who_runs()}"
            raise HarnessError(text) from None

    async def _calm(self) -> None:
        calm, seen = 0, -1
        while calm < CALM:
            self._crash.check()
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
            step = _step(left)
            self._clock.advance(step)
            left -= step
            await self.settle()

    def _next_due(self) -> float | None:
        due = [service.next_due() for service in self._services]
        return min((at for at in due if at is not None), default=None)

    async def _unfinished(self, handle: AsyncHandle[Any]) -> str:
        try:
            known = await handle.status(timeout=1)
        except ResultTimeout:
            return f"task {handle.id} is not finished"
        note = f": {known.note}" if known.note else ""
        return f"task {handle.id} of {known.task!r} is not finished, it is {known.state}{note}"

    def _who_runs(self) -> str:
        running = [each for service in self._services for each in service.running()]
        return f"These run: {', '.join(running)}" if running else "No task function runs"

    @staticmethod
    def _now() -> float:
        return time.time()


def _step(left: float) -> float:
    """How far the clock is put forward at once when it is to go `left` seconds in all."""
    return min(left, max(STEP, left / STEPS), LONGEST_STEP)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise HarnessError("WarrenTest is for asyncio, and no asyncio event loop runs here") from None
    if not movable(loop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise HarnessError(
            f"the clock of the running event loop, {kind}, cannot be put forward; "
            "run this test on asyncio's own, such as asyncio.SelectorEventLoop"
        )
    return loop


def _service(name: str) -> Callable[..., Embedded]:
    found = list(entry_points(group=GROUP, name=name))
    try:
        return cast("Callable[..., Embedded]", found[0].load())
    except IndexError:
        why = f"nobody says how it is started (no entry point {name!r} in the group {GROUP!r})"
    except ImportError as error:
        why = str(error)
    raise HarnessError(f"the {name} is not installed: {why}; pip install 'warren[scheduler,worker]'")


async def _start(service: Embedded, ended: Report) -> None:
    try:
        async with asyncio.timeout(START_TIMEOUT):
            await service.start(ended)
    except BaseException:
        with suppress(Exception):
            await service.stop()
        raise

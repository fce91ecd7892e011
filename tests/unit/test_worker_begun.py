"""What a process has begun is never said not to have been begun, whatever happened while it ran."""

import asyncio
from collections.abc import Sequence
from typing import Any

from common.tasks import TaskFunction
from common.telemetry import Telemetry
from common.wire import Assignment, OutcomeKind
from worker_service.attempts import Attempt, DeliveredBundle
from worker_service.handlers import Handler
from worker_service.pauses import PauseDetector
from worker_service.runtimes import Done
from worker_service.runtimes.child import ChildRuntime
from worker_service.runtimes.forker import ZygoteDied
from worker_service.runtimes.pool import ProcessRuntime


class Process:
    """Dies while it runs, and takes the zygote with it."""

    alive = True
    tasks = 0

    def __init__(self, began: asyncio.Event, go: asyncio.Event) -> None:
        self._began, self._go = began, go

    async def run(self, attempt: Attempt) -> Any:
        self._began.set()
        await self._go.wait()
        raise ZygoteDied(alone=False)

    def close(self) -> None: ...
    def kill(self) -> None: ...


class Forker:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def alive(self) -> "Forker":
        return self

    async def fork(self) -> Process:
        return self._process

    async def stop(self) -> None: ...


async def test_a_crash_counts_although_the_worker_stood_still_meanwhile() -> None:
    done: list[Done] = []
    answered = asyncio.Event()

    def finished(some: Sequence[Done]) -> None:
        done.extend(some)
        answered.set()

    async def dies() -> None: ...

    pauses = PauseDetector(lambda seconds: None)
    began, go = asyncio.Event(), asyncio.Event()
    forker: Any = Forker(Process(began, go))
    surroundings: Any = None
    deliverer: Any = None

    async def start() -> Any:
        return forker

    children = ChildRuntime(forker, start, finished, pauses.missed, surroundings)
    pool = ProcessRuntime(
        forker,
        finished,
        pauses.missed,
        children.run,
        surroundings,
        recycle_after=9,
        needed=True,
        telemetry=Telemetry(),
    )
    attempt = Attempt(Assignment("1", "task", "lease", 1), DeliveredBundle(deliverer, "default"), 0.0)
    attempt.handler = Handler(TaskFunction(dies, name="dies", queue="default", priority=4))
    attempt.started = asyncio.get_running_loop().time()
    pool.run([attempt])
    async with asyncio.timeout(5.0):
        await began.wait()
        pauses.away()
        go.set()
        await answered.wait()
    assert [outcome.kind for _, outcome in done] == [OutcomeKind.FAILED]

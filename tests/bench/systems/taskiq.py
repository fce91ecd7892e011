"""Taskiq 0.13 with taskiq-aio-pika: confirms, quorum queue, results in Redis."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.bench.loop import new_runner
from tests.bench.site import Site
from tests.bench.systems import Burst, Command, Doomed, Leftovers, Session

_SUBMITTERS = 50  # coroutines that each wait for the confirm of their own message
_PATIENCE = 120.0  # seconds until a missing result counts as a failure
_POLL_IN_BULK = 0.02  # seconds; results are polled for in Redis, and rarer is cheaper while all slots are busy
_POLL_WHEN_IDLE = 0.0005  # seconds; Taskiq's own 0.2 s would be nearly all of the round trip


class Taskiq:
    """One worker process on uvloop, which `taskiq worker` takes by itself when it is there."""

    name = "taskiq"
    label = "Taskiq"
    note = "one process, confirms, quorum queue, ack when the result is saved, results polled for in Redis"
    needs_redis = True
    distributions: tuple[str, ...] = ("taskiq", "taskiq-aio-pika", "taskiq-redis", "redis")
    workloads: tuple[str, ...] = ("bulk", "round_trip")

    def site(self, site: Site) -> Site:
        """Taskiq has no settings of its own."""
        return site

    def commands(self, site: Site) -> list[Command]:
        """Return the worker's command."""
        options = ["--workers", "1", "--max-async-tasks", str(site.slots), "--log-level", "ERROR"]
        argv = [sys.executable, "-m", "taskiq", "worker", "tests.bench.apps.taskiq_app:broker", *options]
        return [Command("worker", argv)]

    def connect(self, site: Site) -> Session:
        """Connect to broker and Redis."""
        return _TaskiqSession()

    def leftovers(self, site: Site) -> Leftovers:
        """Return the work queue, its dead-letter queue and the exchange before them."""
        name = f"bench-taskiq-{site.run}"
        return Leftovers([name, f"{name}-dead"], [name])


class _TaskiqSession:
    def __init__(self) -> None:
        from tests.bench.apps.taskiq_app import broker, noop

        self._broker, self._noop = broker, noop
        self._runner = new_runner()
        self._runner.run(broker.startup())

    @property
    def bursts(self) -> Mapping[str, Callable[[int], Burst]]:
        return {"bulk": lambda n: self._runner.run(self._bulk(n))}

    async def _bulk(self, n: int) -> Burst:
        shares = [n // _SUBMITTERS + (index < n % _SUBMITTERS) for index in range(_SUBMITTERS)]
        began = time.perf_counter()
        shared = await asyncio.gather(*(self._submit(share) for share in shares))
        accepted = time.perf_counter() - began
        await asyncio.gather(*(self._await_results(handles) for handles in shared))
        return Burst(n, time.perf_counter() - began, accepted)

    async def _submit(self, n: int) -> list[Any]:
        return [await self._noop.kiq() for _ in range(n)]

    async def _await_results(self, handles: list[Any]) -> None:
        for handle in handles:
            (await handle.wait_result(check_interval=_POLL_IN_BULK, timeout=_PATIENCE)).raise_for_error()

    def round_trip(self, n: int) -> list[float]:
        return self._runner.run(self._round_trip(n))

    async def _round_trip(self, n: int) -> list[float]:
        latencies = []
        for _ in range(n):
            began = time.perf_counter()
            await (await self._noop.kiq()).wait_result(check_interval=_POLL_WHEN_IDLE, timeout=_PATIENCE)
            latencies.append(time.perf_counter() - began)
        return latencies

    def doomed(self, n: int, seconds: float) -> Doomed:
        return self._runner.run(self._doomed(n, time.monotonic() + seconds))

    async def _doomed(self, n: int, deadline: float) -> Doomed:
        from tests.bench.apps.taskiq_app import killer, nap

        handles: list[Any] = [await (killer if number == n // 2 else nap).kiq() for number in range(n + 1)]
        doomed = handles.pop(n // 2)
        ends = [await _ended(handle, deadline) for handle in handles]
        return Doomed(ends.count("done"), await _ended(doomed, deadline))

    def close(self) -> None:
        self._runner.run(self._broker.shutdown())
        self._runner.close()


async def _ended(handle: Any, deadline: float) -> str:
    from taskiq.exceptions import TaskiqResultTimeoutError

    left = max(0.01, deadline - time.monotonic())
    try:
        result = await handle.wait_result(check_interval=_POLL_IN_BULK, timeout=left)
    except TaskiqResultTimeoutError:
        return ""
    return repr(result.error) if result.is_err else "done"

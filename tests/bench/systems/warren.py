"""Warren: scheduler and one worker process, SQLite store with `synchronous=FULL`."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from deploy.local.ports import free_port
from tests.bench.loop import new_runner
from tests.bench.site import VARIABLE, Site
from tests.bench.systems import Burst, Command, Doomed, Leftovers, Session

NOOP, NOOP_THREAD, LATE = "bench.noop", "bench.noop_thread", "bench.late"
NAP, KILLER = "bench.nap", "bench.killer"
DUE_RATE = 1000  # delayed tasks that become due in a second
_DUE = 10_000  # how many of them
_AHEAD = 10.0  # seconds between their submission and the first one
_FAR = 86_400.0  # seconds that the others are delayed
_SUBMITTERS = 200  # coroutines that submit one by one
_FILL = 20_000  # tasks of one call while a backlog is made
_PATIENCE = 120.0  # seconds until a missing result counts as a failure


class Warren:
    """Every hop durable: submission, bundle and reply in quorum queues, every task in the store.

    Args:
        commit_delay: seconds added to each commit of the store, as a slower disk would; 0 for none.
    """

    needs_redis = False
    distributions: tuple[str, ...] = ("warren", "aio-pika", "msgspec", "sqlalchemy", "uvloop")

    def __init__(self, commit_delay: float = 0.0) -> None:
        self._commit_delay = commit_delay
        slow = f"Warren, commits +{commit_delay * 1000:g} ms"
        self.name, self.label = ("warren-slow", slow) if commit_delay else ("warren", "Warren")
        self.workloads: tuple[str, ...] = ("bulk", "single", "threads", "round_trip")
        if commit_delay:
            self.workloads = ("bulk", "round_trip")
        self.note = "one worker process, confirms, quorum queues, SQLite with synchronous=FULL, results by reply queue"

    def site(self, site: Site) -> Site:
        """Return the site with a database, a name space and a metrics port that nobody else has."""
        return msgspec.structs.replace(site, commit_delay=self._commit_delay, http_port=free_port())

    def commands(self, site: Site) -> list[Command]:
        """Return the scheduler and one worker."""
        shared = {"WARREN_AMQP_URL": site.amqp_url, "WARREN_NAMESPACE": _namespace(site), "WARREN_LOG_LEVEL": "warning"}
        scheduler = shared | {
            "WARREN_DATABASE_URL": f"sqlite:///{site.file('warren.db')}",
            "WARREN_STORE_COMMIT_DELAY": str(site.commit_delay),
            "WARREN_HTTP_PORT": str(site.http_port),
        }
        alone = {"WARREN_HTTP_PORT": "0", "WARREN_CHILD_ENVIRONMENT": VARIABLE}
        worker = ["tests.bench.apps.warren_tasks", "--queues", "default", "--slots", str(site.slots)]
        return [
            Command("scheduler", [sys.executable, "-m", "scheduler_service"], scheduler),
            Command("worker", [sys.executable, "-m", "worker_service", *worker], shared | alone),
        ]

    def connect(self, site: Site) -> Session:
        """Connect an `AsyncClient`."""
        return WarrenSession(site)

    def leftovers(self, site: Site) -> Leftovers:
        """Return the durable queues and exchanges of this run's name space."""
        queues = ("submit", "reply", "request", "dead", "work.default")
        exchanges = ("submit", "reply", "request", "work", "dlx", "control", "beat", "event")
        prefix = _namespace(site)
        return Leftovers([f"{prefix}.{name}" for name in queues], [f"{prefix}.{name}" for name in exchanges])


class WarrenSession:
    """One `AsyncClient` on a loop of its own."""

    def __init__(self, site: Site) -> None:
        from common import AsyncClient

        self.runner = new_runner()
        self.client = self.runner.run(self._enter(AsyncClient(site.amqp_url, namespace=_namespace(site))))

    @property
    def bursts(self) -> Mapping[str, Callable[[int], Burst]]:
        """Return `submit_many`, one by one from many coroutines, and `submit_many` of plain functions."""
        return {
            "bulk": lambda n: self.runner.run(self._bulk(n, NOOP)),
            "single": lambda n: self.runner.run(self._single(n)),
            "threads": lambda n: self.runner.run(self._bulk(n, NOOP_THREAD)),
        }

    @staticmethod
    async def _enter(client: Any) -> Any:
        return await client.__aenter__()

    async def _bulk(self, n: int, task: str) -> Burst:
        from common import call

        began = time.perf_counter()
        handles = await self.client.submit_many(call(task) for _ in range(n))
        accepted = time.perf_counter() - began
        for handle in handles:
            await handle.result(timeout=_PATIENCE)
        return Burst(n, time.perf_counter() - began, accepted)

    async def _single(self, n: int) -> Burst:
        shares = [n // _SUBMITTERS + (index < n % _SUBMITTERS) for index in range(_SUBMITTERS)]
        began = time.perf_counter()
        shared = await asyncio.gather(*(self._submit(share) for share in shares))
        accepted = time.perf_counter() - began
        for handles in shared:
            for handle in handles:
                await handle.result(timeout=_PATIENCE)
        return Burst(n, time.perf_counter() - began, accepted)

    async def _submit(self, n: int) -> list[Any]:
        return [await self.client.submit(NOOP) for _ in range(n)]

    def round_trip(self, n: int) -> list[float]:
        """Submit and await one no-op coroutine task after the other."""
        return self.runner.run(self._round_trip(n))

    async def _round_trip(self, n: int) -> list[float]:
        latencies = []
        for _ in range(n):
            began = time.perf_counter()
            await (await self.client.submit(NOOP)).result(timeout=_PATIENCE)
            latencies.append(time.perf_counter() - began)
        return latencies

    def doomed(self, n: int, seconds: float) -> Doomed:
        """See `tests.bench.client.Doomable`."""
        return self.runner.run(self._doomed(n, time.monotonic() + seconds))

    async def _doomed(self, n: int, deadline: float) -> Doomed:
        from common import call

        calls = [call(KILLER if number == n // 2 else NAP) for number in range(n + 1)]
        handles = await self.client.submit_many(calls)
        doomed = handles.pop(n // 2)
        ends = [await _ended(handle, deadline) for handle in handles]
        return Doomed(ends.count("done"), await _ended(doomed, deadline))

    def fill(self, n: int) -> float:
        """Submit `n` tasks in calls of 20,000, keeping no handle, and return the seconds until the last confirm."""
        return self.runner.run(self._fill(n))

    async def _fill(self, n: int) -> float:
        from common import call

        began = time.perf_counter()
        for first in range(0, n, _FILL):
            await self.client.submit_many(call(NOOP) for _ in range(min(_FILL, n - first)))
        return time.perf_counter() - began

    def delayed(self, n: int) -> list[float]:
        """See `tests.bench.client.Backlogged`."""
        return self.runner.run(self._delayed(n))

    async def _delayed(self, n: int) -> list[float]:
        from common import UnknownTask, call

        far = self.client.options(delay=_FAR)
        for first in range(0, n, _FILL):
            last = (await far.submit_many(call(NOOP) for _ in range(min(_FILL, n - first))))[-1]
        # They are confirmed by the broker; what comes now would wait behind those that are not yet stored.
        stored = n == 0
        while not stored:
            with contextlib.suppress(UnknownTask):
                stored = (await last.status()).state == "scheduled"
            await asyncio.sleep(0.1)
        begin = time.time() + _AHEAD
        moments = [begin + index / DUE_RATE for index in range(_DUE)]
        handles = await self.client.submit_many(call(LATE, due).options(run_at=due) for due in moments)
        return [await handle.result(timeout=_PATIENCE) for handle in handles]

    def idle(self, until: Callable[[], None]) -> None:
        """Stay connected and be told results until `until`, called in a thread, returns."""
        self.runner.run(asyncio.to_thread(until))

    def close(self) -> None:
        """Close the client."""
        self.runner.run(self.client.__aexit__(None, None, None))
        self.runner.close()


async def _ended(handle: Any, deadline: float) -> str:
    from common import ResultTimeout, TaskFailed

    try:
        await handle.result(timeout=max(0.01, deadline - time.monotonic()))
    except ResultTimeout:
        return ""
    except TaskFailed as error:
        return f"failed ({error.kind}): {error.message}"
    return "done"


def _namespace(site: Site) -> str:
    return f"bench-{site.run}"

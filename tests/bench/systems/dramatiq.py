"""Dramatiq 2.2: confirms, durable queues, persistent messages, results in Redis."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.bench.site import Site
from tests.bench.systems import Burst, Command, Doomed, Leftovers, Session
from tests.bench.systems.threads import SubmittingThreads

_THREADS = 4  # each waits for the confirm of its own message
_PATIENCE = 120_000  # milliseconds until a missing result counts as a failure


class Dramatiq:
    """As many processes as cores, with eight threads each, which are the defaults."""

    name = "dramatiq"
    label = "Dramatiq"
    note = "8 threads a core, confirm_delivery, durable classic queue (it has no quorum queues), results in Redis"
    needs_redis = True
    distributions: tuple[str, ...] = ("dramatiq", "pika", "redis")
    workloads: tuple[str, ...] = ("bulk", "round_trip")

    def site(self, site: Site) -> Site:
        """Dramatiq has no settings of its own."""
        return site

    def commands(self, site: Site) -> list[Command]:
        """Return the worker's command."""
        size = ["--processes", str(os.cpu_count() or 1), "--threads", "8"]
        return [Command("worker", [sys.executable, "-m", "dramatiq", "tests.bench.apps.dramatiq_app", *size])]

    def connect(self, site: Site) -> Session:
        """Return a session; Dramatiq connects with the first message of each thread."""
        return _DramatiqSession()

    def leftovers(self, site: Site) -> Leftovers:
        """Return the work queue with its delay and dead-letter queues."""
        return Leftovers([f"bench-dramatiq-{site.run}{suffix}" for suffix in ("", ".DQ", ".XQ")], [])


class _DramatiqSession:
    def __init__(self) -> None:
        from tests.bench.apps.dramatiq_app import broker, noop, results

        self._broker, self._noop, self._results = broker, noop, results
        self._threads = SubmittingThreads(_THREADS)

    @property
    def bursts(self) -> Mapping[str, Callable[[int], Burst]]:
        return {"bulk": self._bulk}

    def _bulk(self, n: int) -> Burst:
        return self._threads.burst(n, self._submit, self._await_results)

    def _submit(self, n: int) -> list[Any]:
        return [self._noop.send() for _ in range(n)]

    def _await_results(self, messages: list[Any]) -> None:
        for message in messages:
            message.get_result(backend=self._results, block=True, timeout=_PATIENCE)

    def round_trip(self, n: int) -> list[float]:
        latencies = []
        for _ in range(n):
            began = time.perf_counter()
            self._noop.send().get_result(backend=self._results, block=True, timeout=_PATIENCE)
            latencies.append(time.perf_counter() - began)
        return latencies

    def doomed(self, n: int, seconds: float) -> Doomed:
        from tests.bench.apps.dramatiq_app import killer, nap

        deadline = time.monotonic() + seconds
        messages = [(killer if number == n // 2 else nap).send() for number in range(n + 1)]
        doomed = messages.pop(n // 2)
        return Doomed(sum(self._ended(each, deadline) == "done" for each in messages), self._ended(doomed, deadline))

    def _ended(self, message: Any, deadline: float) -> str:
        from dramatiq.results import ResultTimeout

        while True:
            try:  # in short waits: the Redis client gives up a read that blocks for longer
                message.get_result(backend=self._results, block=True, timeout=1000)
            except ResultTimeout:
                if time.monotonic() > deadline:
                    return ""
            except Exception as error:
                return repr(error)
            else:
                return "done"

    def close(self) -> None:
        self._threads.close()
        self._broker.close()

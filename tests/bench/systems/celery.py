"""Celery 5.7: late acks, confirms, quorum queue, persistent messages and results."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.bench.site import Site
from tests.bench.systems import Burst, Command, Doomed, Leftovers, Session
from tests.bench.systems.threads import SubmittingThreads

_THREADS = 4  # each waits for the confirm of its own message; more only fight over the interpreter lock
_PATIENCE = 120  # seconds until a missing result counts as a failure


class Celery:
    """Prefork with twice as many processes as cores: each one waits for the confirm of its result."""

    name = "celery"
    label = "Celery"
    note = "prefork, acks_late, reject_on_worker_lost, confirms, quorum queue, persistent rpc:// results"
    needs_redis = False
    distributions: tuple[str, ...] = ("celery", "kombu", "amqp")
    workloads: tuple[str, ...] = ("bulk", "round_trip")

    def site(self, site: Site) -> Site:
        """Celery has no settings of its own."""
        return site

    def commands(self, site: Site) -> list[Command]:
        """Return the worker's command, without the chatter between workers that one worker does not need."""
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        pool = ["--pool", "prefork", "--concurrency", str(2 * (os.cpu_count() or 1))]
        argv = [sys.executable, "-m", "celery", "-A", "tests.bench.apps.celery_app", "worker", *quiet, *pool]
        return [Command("worker", argv)]

    def connect(self, site: Site) -> Session:
        """Return a session; Celery connects with the first task."""
        return _CelerySession()

    def leftovers(self, site: Site) -> Leftovers:
        """Return the work queue; the queues for delayed tasks have fixed names that others may use."""
        name = f"bench-celery-{site.run}"
        return Leftovers([name], [name])


class _CelerySession:
    def __init__(self) -> None:
        from celery.result import ResultSet

        from tests.bench.apps.celery_app import app, noop

        self._app, self._noop, self._result_set = app, noop, ResultSet
        self._threads = SubmittingThreads(_THREADS)

    @property
    def bursts(self) -> Mapping[str, Callable[[int], Burst]]:
        return {"bulk": self._bulk}

    def _bulk(self, n: int) -> Burst:
        return self._threads.burst(n, self._submit, self._await_results)

    def _submit(self, n: int) -> list[object]:
        return [self._noop.delay() for _ in range(n)]

    def _await_results(self, handles: list[object]) -> None:
        self._result_set(handles, app=self._app).join_native(timeout=_PATIENCE)

    def round_trip(self, n: int) -> list[float]:
        latencies = []
        for _ in range(n):
            began = time.perf_counter()
            self._noop.delay().get(timeout=_PATIENCE)
            latencies.append(time.perf_counter() - began)
        return latencies

    def doomed(self, n: int, seconds: float) -> Doomed:
        from tests.bench.apps.celery_app import killer, nap

        deadline = time.monotonic() + seconds
        handles: list[Any] = [(killer if number == n // 2 else nap).delay() for number in range(n + 1)]
        doomed = handles.pop(n // 2)
        return Doomed(sum(_ended(handle, deadline) == "done" for handle in handles), _ended(doomed, deadline))

    def close(self) -> None:
        self._threads.close()
        self._app.close()


def _ended(handle: Any, deadline: float) -> str:
    from celery.exceptions import TimeoutError as Late

    try:
        handle.get(timeout=max(0.01, deadline - time.monotonic()))
    except Late:
        return ""
    except Exception as error:
        return repr(error)
    return "done"

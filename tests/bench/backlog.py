"""Warren with a backlog: very many tasks are queued while no worker is there, and then one starts to drain them."""

import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.bench.client import Report
from tests.bench.figures import Backlog
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.rounds import new_site
from tests.bench.services import BenchError, ClientProcess, Services
from tests.bench.site import Site
from tests.bench.systems.warren import Warren
from tests.bench.usage import UsageMeter

_SUBMITTED, _COMPLETED = "warren_tasks_submitted_total", "warren_tasks_completed_total"
_POLL = 0.5  # seconds between two looks at the scheduler's metrics
_STALLED = 60.0  # seconds without any progress after which the run counts as failed


class BacklogRun:
    """One run: fill, wait until all is in the store, start a worker, watch it drain.

    Args:
        broker: the broker of the run.
        shared: surroundings.
        tasks: how many to queue.
        seconds: how long to watch the drain, at most.
    """

    def __init__(self, broker: Broker, shared: Site, tasks: int, seconds: float) -> None:
        self._broker = broker
        self._warren = Warren()
        self._site = new_site(self._warren, shared)
        self._tasks = tasks
        self._seconds = seconds

    def run(self) -> Backlog:
        """Return the figures.

        Raises:
            BenchError: a process ended, or nothing moves any more.
        """
        commands = self._warren.commands(self._site)
        leftovers = self._warren.leftovers(self._site)
        with cleaned(self._broker, leftovers), Services(self._site, commands) as services:
            services.start("scheduler")
            self._services = services
            client = ClientProcess(self._site, ["warren", "backlog", "--n", str(self._tasks)])
            self._meter = UsageMeter({"scheduler": services.pids["scheduler"]})
            try:
                report = client.run(self._on_event, services.check)
            finally:
                self._meter.cancel()
                client.leave()
        assert report.burst is not None
        return Backlog(
            tasks=self._tasks,
            accepted=round(self._tasks / report.burst.accepted_seconds, 1),
            stored_seconds=round(self._stored_seconds, 2),
            rate=round(self._rate, 1),
            scheduler_peak_mb=self._meter.stop().services["scheduler"].peak_mb,
            database_mb=self._database_mb,
        )

    def _on_event(self, report: Report) -> None:
        if report.event == "begin":
            self._await_count(_SUBMITTED, 0)
            self._began = time.monotonic()
            self._meter.start()
        elif report.event == "submitted":
            self._await_count(_SUBMITTED, self._tasks)
            self._stored_seconds = time.monotonic() - self._began
            files = Path(self._site.folder).glob("warren.db*")
            self._database_mb = round(sum(file.stat().st_size for file in files) / 1e6, 1)
            self._services.start("worker")
            self._rate = self._drain_rate()

    def _drain_rate(self) -> float:
        """Return tasks/s from the first completed ones until the time is over or nothing is left."""
        first = self._await_count(_COMPLETED, 1)
        began = time.monotonic()
        last, now = first, began
        while last < self._tasks and now - began < self._seconds:
            time.sleep(_POLL)
            self._services.check()
            last, now = self._count(_COMPLETED), time.monotonic()
        return (last - first) / (now - began)

    def _await_count(self, metric: str, least: int) -> int:
        """Return the metric's sum as soon as it has reached `least`."""
        moved_at, before = time.monotonic(), -2
        while True:
            count = self._count(metric)
            if count >= least:
                return count
            if count != before:
                moved_at, before = time.monotonic(), count
            if time.monotonic() - moved_at > _STALLED:
                raise BenchError(f"{metric} has stopped at {count:,} of {least:,}")
            self._services.check()
            time.sleep(_POLL)

    def _count(self, metric: str) -> int:
        """Return the sum over all labels of a metric of the scheduler, -1 while it does not answer yet."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._site.http_port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except (urllib.error.URLError, OSError):
            return -1
        samples = [line for line in lines if line.startswith((f"{metric}{{", f"{metric} "))]
        return int(sum(float(sample.rsplit(" ", 1)[1]) for sample in samples))

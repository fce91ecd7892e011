"""What beats cost: fleets of simulated workers beside a real scheduler, which grows with their number and no faster.

Each simulated worker beats once a second with the real code, listing 50 running leases of tasks that the scheduler has
in its store, and answers probes. Nothing else goes on, so what scheduler and broker use is what the beats cost.
"""

import argparse
import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from common.client.sync import Client
from common.telemetry import Telemetry
from scheduler_service import operations
from scheduler_service.storage.store import Store
from tests.bench import infrastructure
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.rounds import new_site
from tests.bench.services import BenchError, Services
from tests.bench.site import Site
from tests.bench.systems import Command
from tests.bench.systems.warren import Warren
from tests.bench.usage import UsageMeter
from tests.support.storage import accept, claim, new

_PATIENCE = 60.0
_AT_ONCE = 1000
_QUESTIONS = 11
_SETTLE = 12.0
"""Seconds until the first beats, which carry the functions, are over."""


class Cost(msgspec.Struct):
    """What one fleet cost.

    Args:
        workers: how many beat.
        beats: beats a second, as confirmed by the broker; each goes to one scheduler.
        scheduler_cpu, broker_cpu, fleet_cpu: share of one core, 0 to 1.
        scheduler_mb: peak memory of the scheduler.
        per_beat_us: the scheduler's processor time for a beat, beyond what it uses without any worker.
        strangers: share of all cores that others used meanwhile.
        answer_ms: median time of `Client.workers`, which lists them with what they run.
        answer_kb: size of that answer.
    """

    workers: int
    beats: float
    scheduler_cpu: float
    broker_cpu: float
    fleet_cpu: float
    scheduler_mb: float
    per_beat_us: float
    strangers: float
    answer_ms: float
    answer_kb: float


class BeatsRun:
    """One fleet.

    Args:
        broker: the broker of the run.
        shared: surroundings.
        leases: that each worker holds.
        seconds: to measure.
    """

    def __init__(self, broker: Broker, shared: Site, leases: int, seconds: float) -> None:
        self._broker = broker
        self._shared = shared
        self._leases = leases
        self._seconds = seconds

    def run(self, workers: int, idle_cpu: float) -> Cost:
        """Measure a fleet of this size.

        Args:
            workers: how many.
            idle_cpu: the scheduler's share of a core without any.

        Raises:
            BenchError: a process ended, or nothing was sent.
        """
        warren = Warren()
        site = new_site(warren, self._shared)
        scheduler = warren.commands(site)[0]
        namespace = scheduler.environment["WARREN_NAMESPACE"]
        # Workers cannot beat before a scheduler has made their exchange, and one that knows tasks which nobody holds
        # would take them for lost. So the fleet comes together under another scheduler, whose store is empty.
        opener = Command("opener", scheduler.argv, scheduler.environment | {"WARREN_DATABASE_URL": _empty(site)})
        commands = [opener, scheduler]
        if workers:
            size = ["--workers", str(workers), "--leases", str(self._leases)]
            argv = [sys.executable, "-m", "tests.bench.apps.fleet", "--namespace", namespace, *size]
            commands.append(Command("fleet", argv, {}))
        with cleaned(self._broker, warren.leftovers(site)), Services(site, commands) as services:
            services.start("opener", "fleet")
            if workers:
                self._await_beats(site, services)
            _pass(_SETTLE, services)
            services.stop("opener")
            asyncio.run(_dispatch(scheduler.environment["WARREN_DATABASE_URL"], workers * self._leases))
            services.start("scheduler")
            _pass(_SETTLE, services)
            pids = services.pids | ({"broker": self._broker.pid} if self._broker.pid else {})
            meter = UsageMeter(pids)
            try:
                sent, began = _sent(site), time.monotonic()
                meter.start()
                _pass(self._seconds, services)
                spent = meter.stop()
                seconds, sent = time.monotonic() - began, _sent(site) - sent
            finally:
                meter.cancel()
            answer_ms, answer_kb = _ask(self._shared.amqp_url, namespace, workers, workers * self._leases)
        used: dict[str, Any] = spent.services
        share = {name: usage.cpu_seconds / seconds for name, usage in used.items()}
        beats = sent / seconds
        return Cost(
            workers=workers,
            beats=round(beats, 1),
            scheduler_cpu=round(share["scheduler"], 4),
            broker_cpu=round(share.get("broker", 0.0), 4),
            fleet_cpu=round(share.get("fleet", 0.0), 4),
            scheduler_mb=used["scheduler"].peak_mb,
            per_beat_us=round((share["scheduler"] - idle_cpu) / beats * 1e6, 1) if beats else 0.0,
            strangers=spent.strangers,
            answer_ms=answer_ms,
            answer_kb=answer_kb,
        )

    def _await_beats(self, site: Site, services: Services) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not _sent(site):
            services.check()
            if time.monotonic() > deadline:
                raise BenchError("the fleet does not beat; its log ends:\n" + services.log("fleet"))
            time.sleep(0.1)


def _empty(site: Site) -> str:
    return f"sqlite:///{site.file('empty.db')}"


async def _dispatch(database: str, count: int) -> None:
    """Put `count` tasks into the store as they are when workers run them: dispatched, and confirmed by the broker."""
    store = Store(database, telemetry=Telemetry())
    await store.start()
    for first in range(1, count + 1, _AT_ONCE):
        some = min(_AT_ONCE, count + 1 - first)
        await accept(store, *(new(task="shop.work") for _ in range(some)))
        await claim(store, "default", some, first)
    await store.run(operations.write_mark, count)
    await store.stop()


def _ask(url: str, namespace: str, workers: int, tasks: int) -> tuple[float, float]:
    """How many milliseconds `Client.workers` takes, and how many kilobytes its answer has."""
    with Client(url, namespace=namespace) as client:
        times = []
        for _ in range(_QUESTIONS):
            began = time.perf_counter()
            found = client.workers()
            times.append(time.perf_counter() - began)
        if len(found) != workers:
            raise BenchError(f"{len(found)} workers are listed, not {workers}")
        running = sum(queue.running for queue in client.queues())
        if running != tasks:
            raise BenchError(f"{running:,} tasks count as running, not {tasks:,}")
    return round(statistics.median(times) * 1000, 1), round(len(msgspec.json.encode(found)) / 1000, 1)


def _sent(site: Site) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int(site.file("beats").read_text())
    return 0


def _pass(seconds: float, services: Services) -> None:
    """Let time pass: that is what is measured."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        services.check()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure fleets of several sizes and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.beats", description=__doc__)
    parser.add_argument("--workers", default="0,50,100,200", help="sizes of fleets, separated by commas; 0 first")
    parser.add_argument("--leases", type=int, default=50, help="running leases of each worker")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    folder = Path(tempfile.mkdtemp(prefix="warren-beats-"))
    costs: list[Cost] = []
    try:
        with infrastructure.broker(folder / "broker", folder / "broker.log") as broker:
            run = BeatsRun(broker, Site(broker.url, "", "", str(folder), 1), options.leases, options.seconds)
            for workers in map(int, options.workers.split(",")):
                idle = next((cost.scheduler_cpu for cost in costs if not cost.workers), 0.0)
                costs.append(run.run(workers, idle))
                console.print(f"{workers} workers: {msgspec.to_builtins(costs[-1])}", markup=False)
    except BenchError as error:
        console.print(f"failed: {error}; logs are in {folder}", markup=False)
        return 1
    shutil.rmtree(folder)
    console.print(_table(costs))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=2) + b"\n")
    return 0


def _table(costs: Sequence[Cost]) -> Table:
    columns = ("workers", "beats/s", "scheduler", "per beat", "memory", "broker", "strangers", "`workers` answer")
    table = Table(*columns, title="Beats")
    for cost in costs:
        table.add_row(
            str(cost.workers),
            f"{cost.beats:,.0f}",
            f"{cost.scheduler_cpu:.1%} of a core",
            f"{cost.per_beat_us:,.0f} us",
            f"{cost.scheduler_mb:,.0f} MB",
            f"{cost.broker_cpu:.1%} of a core",
            f"{cost.strangers:.0%}",
            f"{cost.answer_ms:,.0f} ms, {cost.answer_kb:,.0f} kB",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())

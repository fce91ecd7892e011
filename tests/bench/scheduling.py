"""The tables of docs/scheduling.md: simulated fleets under a fake clock; on real workers the mix with `--real`, the
shares of queues with `--shares`, and a small tenant beside a large one with `--tenant`.

The simulation decides with Warren's own code (tests/support/fleet.py) and takes a few minutes at most.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from common import call
from common.client.sync import Client
from deploy.local import find_broker
from tests.bench import infrastructure
from tests.bench.infrastructure import cleaned
from tests.bench.rounds import new_site
from tests.bench.services import BenchError, Services
from tests.bench.site import Site
from tests.bench.systems import Command
from tests.bench.systems.warren import Warren
from tests.support import tenants
from tests.support.cluster import Cluster
from tests.support.scheduling import (
    CAPACITY,
    MACHINES,
    SHORT,
    Arrivals,
    Mix,
    all_at_once,
    over_time,
    small_tenant,
    with_competing_consumers,
    with_warren,
)
from tests.support.shares import CONTESTS, environment, measure

_PATIENCE = 300.0


def _tenants() -> Table:
    table = Table(
        "run time", "waiting alone", "beside", "waiting, in run times", "turnaround", title="10 tasks beside 100,000"
    )
    for run in (0.001, 0.01, 0.1, 1.0):
        alone, beside = small_tenant(run, backlog=0), small_tenant(run, backlog=100_000)
        table.add_row(
            f"{run * 1000:g} ms",
            f"{alone.waited * 1000:.0f} ms",
            f"{beside.waited * 1000:.0f} ms",
            f"{beside.waited / run:.2f}",
            f"{beside.turnaround / alone.turnaround:.2f} x",
        )
    return table


def _mixes(title: str, arrivals: Arrivals) -> Table:
    table = Table("", "all done after", "over the bound", "short wait: mean", "p50", "p99", "long: mean", title=title)
    _add(table, "Warren", with_warren(arrivals))
    _add(table, "Warren, a key for the short and one for the long", with_warren(arrivals, key=str))
    for prefetch in (1, 50):
        _add(table, f"competing consumers, prefetch {prefetch}", with_competing_consumers(arrivals, prefetch))
    return table


def _add(table: Table, name: str, mix: Mix) -> None:
    quantiles = statistics.quantiles(mix.short, n=100)
    table.add_row(
        name,
        f"{mix.makespan:.1f} s",
        f"{mix.over:.1%}",
        f"{statistics.mean(mix.short):.2f} s",
        f"{quantiles[49]:.3f} s",
        f"{quantiles[98]:.2f} s",
        f"{statistics.mean(mix.long):.2f} s",
    )


def _real(folder: Path, short: int, long: int) -> Mix:
    """The mix on a real broker, a scheduler and a worker process for each of `MACHINES`; all tasks at the start.

    The bound is that of the run times as they were: on a busy machine a task of 10 ms takes longer.
    """
    arrivals = all_at_once(short, long)
    with infrastructure.broker(folder / "broker", folder / "broker.log") as broker:
        warren = Warren()
        site = new_site(warren, Site(broker.url, "", "", str(folder), 4))
        scheduler, worker = warren.commands(site)
        commands = [scheduler]
        for number, (slots, speed) in enumerate(MACHINES):
            argv = [*worker.argv[:3], "tests.bench.apps.mix_tasks", "--queues", "default", "--slots", str(slots)]
            environment = worker.environment | {"WARREN_BENCH_SPEED": str(speed)}
            commands.append(Command(f"worker-{number}", argv, environment))
        namespace = scheduler.environment["WARREN_NAMESPACE"]
        with (
            cleaned(broker, warren.leftovers(site)),
            Services(site, commands) as services,
            Client(broker.url, namespace=namespace) as client,
        ):
            services.start()
            _await_workers(client, services)
            began = time.time()
            handles = client.submit_many([call("bench.mix", run) for _, run in arrivals])
            spans = [handle.result(timeout=_PATIENCE) for handle in handles]
            services.check()
    waits = [(run, at - began) for (_, run), (at, _, _) in zip(arrivals, spans, strict=True)]
    return Mix(
        max(end for _, end, _ in spans) - began,
        sum((end - at) * speed for at, end, speed in spans) / CAPACITY,
        sorted(waited for run, waited in waits if run == SHORT),
        sorted(waited for run, waited in waits if run != SHORT),
    )


def _shares(console: Console, folder: Path, seconds: float) -> None:
    """How queues share the slots of real workers, one contest after the other."""
    table = Table("weights, workers, run time", "shares", "off by, of the share", "tasks", "slots busy", "machine load")
    with find_broker(url="", may_install=False) as broker:
        for number, contest in enumerate(CONTESTS):
            console.print(f"{contest}, {seconds:g} s")
            with Cluster(
                broker,
                folder / str(number),
                workers=contest.workers,
                slots=contest.slots,
                environment=environment(contest),
                tasks="tests.support.share_tasks",
                restart=False,
            ) as cluster:
                shared = measure(cluster, contest, warm_up=3.0, seconds=seconds)
            table.add_row(
                str(contest),
                " : ".join(f"{share:.2%}" for share in shared.shares.values()),
                f"{shared.off:.1%}" if not shared.empty else f"{', '.join(shared.empty)} ran empty",
                f"{shared.runs.total():,}",
                f"{shared.busy:.0%}",
                f"{os.getloadavg()[0]:.1f}",
            )
    console.print(table)


def _tenant(console: Console, folder: Path, runs: Sequence[float], backlog: int, tries: int) -> None:
    """A small tenant beside a large one on a real broker, a scheduler and two workers of five slots."""
    table = Table(
        "run time",
        "waiting alone",
        "beside",
        "turnaround alone",
        "beside",
        "beside / alone",
        "last result alone",
        "beside",
        "tasks a second",
        "machine load",
        title=f"10 tasks beside {backlog:,}, real; medians of {tries} tries",
    )
    with infrastructure.broker(folder / "broker", folder / "broker.log") as broker:
        for run in runs:
            tenancy = _beside(broker, folder / f"{run * 1000:g} ms", run, backlog, tries)
            both = (tenancy.alone, tenancy.beside)
            table.add_row(
                f"{run * 1000:g} ms",
                *(f"{statistics.median(each.waited) * 1000:.1f} ms" for each in both),
                *(f"{statistics.median(each.turnaround) * 1000:.1f} ms" for each in both),
                f"{tenancy.ratio:.2f} x",
                *(f"{statistics.median(each.finished) * 1000:.1f} ms" for each in both),
                f"{tenancy.rate:,.0f}",
                f"{os.getloadavg()[0]:.1f}",
            )
            console.print(f"{run * 1000:g} ms: {tenancy.left:,} were left", *_rounded(tenancy.beside.turnaround))
    console.print(table)


def _rounded(seconds: Sequence[float]) -> list[str]:
    return [f"{each * 1000:.0f}" for each in seconds]


def _beside(broker: infrastructure.Broker, folder: Path, run: float, backlog: int, tries: int) -> tenants.Tenancy:
    folder.mkdir()
    warren = Warren()
    site = new_site(warren, Site(broker.url, "", "", str(folder), 5))
    scheduler, worker = warren.commands(site)
    argv = [tenants.TASKS if each == "tests.bench.apps.warren_tasks" else each for each in worker.argv]
    commands = [scheduler, *(Command(f"worker-{number}", argv, worker.environment) for number in range(2))]
    namespace = scheduler.environment["WARREN_NAMESPACE"]
    with (
        cleaned(broker, warren.leftovers(site)),
        Services(site, commands) as services,
        contextlib.ExitStack() as clients,
    ):
        services.start()

        def connect() -> Client:
            return clients.enter_context(Client(broker.url, namespace=namespace))

        _await_workers(connect(), services, 2)
        tenancy = tenants.measure(connect, run, backlog=backlog, tries=tries)
        services.check()
    return tenancy


def _await_workers(client: Client, services: Services, count: int = len(MACHINES)) -> None:
    deadline = time.monotonic() + _PATIENCE
    while len(client.workers()) < count:
        services.check()
        if time.monotonic() > deadline:
            raise BenchError("the workers are not heard of")
        time.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scheduling", description=__doc__)
    parser.add_argument("--real", action="store_true", help="the mix on a real broker and workers, about a minute")
    parser.add_argument("--short", type=int, default=5000, help="tasks of 10 ms of the real mix")
    parser.add_argument("--long", type=int, default=50, help="tasks of 10 s of the real mix")
    parser.add_argument("--shares", action="store_true", help="how queues share real workers, about two minutes")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each of the shares is measured")
    parser.add_argument("--tenant", action="store_true", help="a small tenant beside a large one on real workers")
    parser.add_argument("--runs", type=float, nargs="+", default=[0.001, 0.01, 0.1], help="seconds of a tenant's task")
    parser.add_argument("--backlog", type=int, default=100_000, help="tasks of the large tenant")
    parser.add_argument("--tries", type=int, default=20, help="how often the small tenant submits its ten")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if options.shares:
        with tempfile.TemporaryDirectory(prefix="warren-shares-") as shares:
            _shares(console, Path(shares), options.seconds)
        return 0
    if options.tenant:
        with tempfile.TemporaryDirectory(prefix="warren-tenants-") as place:
            _tenant(console, Path(place), options.runs, options.backlog, options.tries)
        return 0
    if options.real:
        folder = Path(tempfile.mkdtemp(prefix="warren-scheduling-"))
        try:
            mix = _real(folder, options.short, options.long)
        except BenchError as error:
            console.print(f"failed: {error}; logs are in {folder}", markup=False)
            return 1
        shutil.rmtree(folder)
        title = f"Real workers: {options.short:,} of 10 ms, {options.long:,} of 10 s, the bound is {mix.ideal:.1f} s"
        table = Table(
            "", "all done after", "over the bound", "short wait: mean", "p50", "p99", "long: mean", title=title
        )
        _add(table, "Warren", mix)
        arrivals = all_at_once(options.short, options.long)
        _add(table, "Warren, simulated", with_warren(arrivals))
        for prefetch in (1, 50):
            consumers = with_competing_consumers(arrivals, prefetch)
            _add(table, f"competing consumers, prefetch {prefetch}, simulated", consumers)
        console.print(table)
        return 0
    console.print(_tenants())
    console.print(_mixes("10,000 of 10 ms and 100 of 10 s, all at the start", all_at_once(10_000, 100)))
    console.print(_mixes("at random for a minute, 70 % of the capacity", over_time(60.0, 0.7)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The tables of docs/scheduling.md: simulated fleets under a fake clock; on real workers the mix with `--real`, the
shares of queues with `--shares`, and a small tenant beside a large one with `--tenant`.

The simulation decides with Warren's own code (tests/support/fleet.py) and takes a few minutes at most.
"""

import argparse
import datetime as dt
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.local import find_broker
from tests.bench import infrastructure
from tests.bench.competing import Tick
from tests.bench.infrastructure import Machine
from tests.bench.mix import on_competing_consumers, on_warren
from tests.bench.mix_report import RealMixes, Row, mix_table, row
from tests.bench.services import BenchError
from tests.bench.tenancy import beside
from tests.support.cluster import Cluster
from tests.support.scheduling import (
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

WARREN, CONSUMERS = "Warren", "competing consumers, prefetch {}"
PREFETCHES = (1, 50)
LOAD = 0.7
"""What share of the capacity tasks need that come at random."""

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


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
    keyed = row("Warren, a key for the short and one for the long", with_warren(arrivals, key=str))
    warren, *consumers = _simulated(arrivals)
    return mix_table(title, [warren, keyed, *consumers])


def _simulated(arrivals: Arrivals) -> list[Row]:
    rows = [row(WARREN, with_warren(arrivals))]
    return rows + [row(CONSUMERS.format(each), with_competing_consumers(arrivals, each)) for each in PREFETCHES]


def _real(console: Console, folder: Path, arrivals: Arrivals) -> tuple[Machine, list[Row]]:
    """The mix on one broker, on one system after the other: the machine, and how it went.

    Raises:
        BenchError: a system could not be measured.
    """
    rows = []
    with (
        infrastructure.broker(folder / "broker", folder / "broker.log") as broker,
        Progress(*_COLUMNS, console=console, refresh_per_second=2, disable=not console.is_terminal) as progress,
    ):
        machine = infrastructure.machine(folder, broker.version, "")
        systems: dict[str, Callable[[Tick], Mix]] = {WARREN: partial(on_warren, broker, folder, arrivals)}
        for prefetch in PREFETCHES:
            consumers = partial(on_competing_consumers, broker, folder, arrivals, prefetch)
            systems[CONSUMERS.format(prefetch)] = consumers
        for name, measure_mix in systems.items():
            bar = progress.add_task(name, total=len(arrivals))
            before = os.getloadavg()[0]
            mix = measure_mix(partial(progress.advance, bar))
            rows.append(row(name, mix, (before, os.getloadavg()[0])))
            progress.console.print(f"{name}: {mix.makespan:.1f} s, {mix.over:.1%} over the bound of {mix.ideal:.1f} s")
    return machine, rows


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


def _print_real(console: Console, short: int, long: int, over: float, json: Path | None) -> int:
    """Measure the mix on a real broker, and print and write what came out; returns the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="warren-scheduling-"))
    arrivals = over_time(over, LOAD) if over else all_at_once(short, long)
    short = sum(run == SHORT for _, run in arrivals)
    long = len(arrivals) - short
    try:
        machine, rows = _real(console, folder, arrivals)
    except BenchError as error:
        console.print(f"failed: {error}; logs are in {folder}", markup=False)
        return 1
    shutil.rmtree(folder)
    if json is not None:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        mixes = RealMixes(now, machine, short, long, over, rows)
        json.write_bytes(msgspec.json.format(msgspec.json.encode(mixes), indent=2) + b"\n")
    when = f"at random for {over:g} s, {LOAD:.0%} of the capacity" if over else "all at the start"
    console.print(mix_table(f"{short:,} of 10 ms, {long:,} of 10 s, {when}", rows + _simulated(arrivals)))
    return 0


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
            tenancy = beside(broker, folder / f"{run * 1000:g} ms", run, backlog, tries)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scheduling", description=__doc__)
    parser.add_argument("--real", action="store_true", help="the mix on a real broker, about three minutes")
    parser.add_argument("--short", type=int, default=5000, help="tasks of 10 ms of the real mix")
    parser.add_argument("--long", type=int, default=50, help="tasks of 10 s of the real mix")
    parser.add_argument("--over", type=float, default=0.0, metavar="SECONDS", help="they come at random for so long")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write what came out of the real mix to this file")
    parser.add_argument("--shares", action="store_true", help="how queues share real workers, about two minutes")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each of the shares is measured")
    parser.add_argument("--tenant", action="store_true", help="a small tenant beside a large one on real workers")
    parser.add_argument("--runs", type=float, nargs="+", default=[0.001, 0.01, 0.1], help="seconds of a tenant's task")
    parser.add_argument("--backlog", type=int, default=100_000, help="tasks of the large tenant")
    parser.add_argument("--tries", type=int, default=20, help="how often the small tenant submits its ten")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.shares:
        with tempfile.TemporaryDirectory(prefix="warren-shares-") as shares:
            _shares(console, Path(shares), options.seconds)
        return 0
    if options.tenant:
        with tempfile.TemporaryDirectory(prefix="warren-tenants-") as place:
            _tenant(console, Path(place), options.runs, options.backlog, options.tries)
        return 0
    if options.real:
        return _print_real(console, options.short, options.long, options.over, options.json)
    console.print(_tenants())
    console.print(_mixes("10,000 of 10 ms and 100 of 10 s, all at the start", all_at_once(10_000, 100)))
    console.print(_mixes("at random for a minute, 70 % of the capacity", over_time(60.0, LOAD)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The command of `make bench`: measures, prints tables, writes `docs/bench.json` and `docs/bench.png`."""

import argparse
import contextlib
import datetime as dt
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console

from deploy.local import BrokerError
from tests.bench import infrastructure
from tests.bench.backlog import BacklogRun
from tests.bench.delayed import DelayedRun
from tests.bench.figures import Backlog, Delayed, Results, SystemFigures, ratios
from tests.bench.picture import draw
from tests.bench.profiling import Profiler
from tests.bench.progress import Steps
from tests.bench.report import print_results
from tests.bench.rounds import Plan, Rounds
from tests.bench.services import BenchError
from tests.bench.site import Site
from tests.bench.systems import System
from tests.bench.systems.registry import SYSTEMS

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_SCENARIOS = ("bulk", "single", "threads", "round_trip", "backlog", "delayed")


class Length(NamedTuple):
    """How long a run takes: rounds, seconds of a repetition, repeats of a disturbed one, the backlog and its drain."""

    rounds: int
    seconds: float
    repeats: int
    backlog: int
    drain_seconds: float


_FULL, _QUICK = Length(5, 5.0, 2, 1_000_000, 60.0), Length(2, 1.5, 0, 50_000, 10.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 1 if a wanted system could not be measured."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 180)
    folder = Path(tempfile.mkdtemp(prefix="warren-bench-", dir=options.workdir))
    failed = True
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a `kill` cleans up just as Ctrl-C does
    try:
        results, failed = _measure(options, _length(options), folder, console)
        print_results(console, results)
        _write(results, options)
    except (BenchError, BrokerError) as error:
        console.print(f"failed: {error}", markup=False)
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        console.print("stopped; nothing was written, and all that was started is gone")
        return 130
    if failed or options.keep:
        console.print(f"logs are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(failed)


def _length(options: argparse.Namespace) -> Length:
    """Return the wanted length, with what the command line says in its place."""
    wanted = {name: getattr(options, name) for name in ("rounds", "seconds", "backlog")}
    given = {name: value for name, value in wanted.items() if value is not None}
    return (_QUICK if options.quick else _FULL)._replace(**given)


def _measure(options: argparse.Namespace, length: Length, folder: Path, console: Console) -> tuple[Results, bool]:
    """Start broker and Redis, measure all that is wanted; returns the results and whether anything has failed."""
    plan = Plan(length.rounds, length.seconds, length.repeats, tuple(options.scenario))
    profiler = Profiler(options.profile)
    if profiler.missing:
        console.print("py-spy is not installed: no profiles (`pip install py-spy`)")
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(infrastructure.broker(folder / "broker", folder / "broker.log"))
        redis_url, redis_pid, redis_version = stack.enter_context(infrastructure.redis_server(folder))
        machine = infrastructure.machine(folder, broker.version, redis_version)
        site = Site(broker.url, redis_url, "", str(folder), options.slots)
        chosen, skipped = _choose(options.only, redis_url)
        for figures in skipped.values():
            console.print(f"{figures.label} is skipped: {figures.skipped}")
        backlog = length.backlog if "warren" in chosen and "backlog" in (options.scenario or _SCENARIOS) else 0
        far = length.backlog if "warren" in chosen and "delayed" in (options.scenario or _SCENARIOS) else 0
        total = length.rounds * sum(len(plan.workloads(system)) for system in chosen.values())
        total += (backlog > 0) + (far > 0)
        with Steps(console, total) as steps:
            pids = {name: pid for name, pid in (("broker", broker.pid), ("redis", redis_pid)) if pid}
            measured = Rounds(plan, broker, site, pids, profiler, steps.step).run(list(chosen.values()))
            drained = _drain(broker, site, backlog, length.drain_seconds, steps) if backlog else None
            delayed = _delay(broker, site, far, steps) if far else None
    results = Results(
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        quick=options.quick,
        rounds=length.rounds,
        seconds=length.seconds,
        slots=options.slots,
        machine=machine,
        versions=infrastructure.versions({name for system in SYSTEMS.values() for name in system.distributions}),
        systems=measured | skipped,
        backlog=drained,
        delayed=delayed,
        ratios=ratios(measured),
    )
    failed = any(figures.skipped for figures in measured.values())
    failed = failed or (backlog > 0 and drained is None) or (far > 0 and delayed is None)
    return results, failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about two minutes in all, for a first look")
    parser.add_argument("--only", type=_words(SYSTEMS), default=list(SYSTEMS), help="systems, separated by commas")
    parser.add_argument("--scenario", type=_words(_SCENARIOS), default=[], help="workloads, separated by commas")
    parser.add_argument("--rounds", type=int, help="repetitions of each workload")
    parser.add_argument("--seconds", type=float, help="length of one repetition")
    parser.add_argument("--slots", type=int, default=100, help="tasks a worker runs at once (Warren, Taskiq)")
    parser.add_argument("--backlog", type=int, help="tasks to queue, and to delay; 0 leaves both out")
    parser.add_argument("--json", type=Path, help="where the figures go; default: into docs/ after a whole run")
    parser.add_argument("--picture", type=Path, help="where the picture goes; default: into docs/ after a whole run")
    parser.add_argument("--workdir", type=Path, help="folder on the disk to measure on; default: the temporary one")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="record flame graphs by py-spy there")
    parser.add_argument("--keep", action="store_true", help="keep logs and data")
    return parser


def _words(known: Collection[str]) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated words out of `known`."""

    def read(text: str) -> list[str]:
        words = text.split(",")
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)} (known: {', '.join(known)})")
        return words

    return read


def _choose(names: list[str], redis_url: str) -> tuple[dict[str, System], dict[str, SystemFigures]]:
    """Return the systems that can be measured, and the others with their reason."""
    chosen, skipped = {}, {}
    for name, system in SYSTEMS.items():
        if name not in names:
            continue
        missing = [distribution for distribution in system.distributions if not infrastructure.versions({distribution})]
        if missing and missing != ["uvloop"]:
            reason = f"{', '.join(missing)} not installed (`pip install -e .[dev,bench]`)"
        elif system.needs_redis and not redis_url:
            reason = "it returns results through Redis, and no valkey-server or redis-server is on the PATH"
        else:
            chosen[name] = system
            continue
        skipped[name] = SystemFigures(system.label, system.note, skipped=reason)
    return chosen, skipped


def _drain(broker: infrastructure.Broker, site: Site, tasks: int, seconds: float, steps: Steps) -> Backlog | None:
    try:
        backlog = BacklogRun(broker, site, tasks, seconds).run()
    except BenchError as error:
        steps.step(f"backlog failed: {error}")
        return None
    steps.step(f"backlog of {tasks:,}: {backlog.rate:,.0f} tasks/s, scheduler {backlog.scheduler_peak_mb:,.0f} MB")
    return backlog


def _delay(broker: infrastructure.Broker, site: Site, tasks: int, steps: Steps) -> Delayed | None:
    try:
        delayed = DelayedRun(broker, site, tasks).run()
    except BenchError as error:
        steps.step(f"delayed tasks failed: {error}")
        return None
    steps.step(f"delayed: late by {delayed.p50_ms:.1f} ms, p99 {delayed.p99_ms:.1f} ms, {delayed.early} too early")
    return delayed


def _write(results: Results, options: argparse.Namespace) -> None:
    """Write figures and picture to the files asked for; `docs/` only ever holds those of a whole run."""
    whole = not options.quick and not options.scenario and set(options.only) == set(SYSTEMS)
    file: Path | None = options.json or (_DOCS / "bench.json" if whole else None)
    picture: Path | None = options.picture or (_DOCS / "bench.png" if whole else None)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    if picture is not None:
        draw(results, picture)


if __name__ == "__main__":
    sys.exit(main())

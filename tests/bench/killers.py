"""A task that kills its worker, beside a hundred that do no harm: how often it runs, and what becomes of the others.

    python -m tests.bench.killers

The same on Warren, Celery, Dramatiq and Taskiq, configured as in `make bench`. Services that end are started again, as
an init system would do it.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench import infrastructure
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.rounds import new_site
from tests.bench.services import BenchError, ClientProcess, Services
from tests.bench.site import Site
from tests.bench.systems import System
from tests.bench.systems.registry import SYSTEMS


class Verdict(msgspec.Struct, frozen=True):
    """What one system did: runs of the killer, services that were started again, others done, how the killer ended."""

    system: str
    seconds: float
    runs: int
    restarts: int
    done: int
    killer: str


class KillerRun:
    """One system with one killer.

    Args:
        broker: the broker of the run.
        site: surroundings.
        system: which system.
        tasks: how many others there are.
        seconds: how long to wait for them and for the killer's end.
    """

    def __init__(self, broker: Broker, site: Site, system: System, tasks: int, seconds: float) -> None:
        self._broker = broker
        self._system = system
        self._site = new_site(system, site)
        self._tasks = tasks
        self._seconds = seconds
        self._restarts = 0

    def run(self) -> Verdict:
        """Return what came of it.

        Raises:
            BenchError: the client ended without a report.
        """
        commands, leftovers = self._system.commands(self._site), self._system.leftovers(self._site)
        with cleaned(self._broker, leftovers), Services(self._site, commands) as services:
            self._services = services
            services.start()
            arguments = [self._system.name, "doomed", "--n", str(self._tasks), "--seconds", str(self._seconds)]
            client = ClientProcess(self._site, arguments)
            began = time.monotonic()
            try:
                report = client.run(lambda _: None, self._revive)
            finally:
                client.leave()
            took = time.monotonic() - began
        assert report.doomed is not None
        kills = self._site.file("kills")
        return Verdict(
            self._system.label,
            round(took, 1),
            kills.stat().st_size if kills.exists() else 0,
            self._restarts,
            report.doomed.done,
            report.doomed.killer,
        )

    def _revive(self) -> None:
        self._restarts += self._services.start_again()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each system and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.killers", description=__doc__)
    parser.add_argument("--systems", default="warren,celery,dramatiq,taskiq", help="which, separated by commas")
    parser.add_argument("--tasks", type=int, default=100, help="tasks beside the killer")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to wait")
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    folder = Path(tempfile.mkdtemp(prefix="warren-killers-"))
    verdicts: list[Verdict] = []
    try:
        with (
            infrastructure.broker(folder / "broker", folder / "broker.log") as broker,
            infrastructure.redis_server(folder) as (redis_url, _, _),
        ):
            site = Site(broker.url, redis_url, "", str(folder), 50)
            for name in options.systems.split(","):
                run = KillerRun(broker, site, SYSTEMS[name], options.tasks, options.seconds)
                verdicts.append(run.run())
                console.print(str(msgspec.to_builtins(verdicts[-1])), markup=False)
    except BenchError as error:
        console.print(f"failed: {error}; logs are in {folder}", markup=False)
        return 1
    shutil.rmtree(folder)
    console.print(_table(verdicts, options.tasks))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(verdicts), indent=2) + b"\n")
    return 0


def _table(verdicts: Sequence[Verdict], tasks: int) -> Table:
    table = Table("system", "within", "runs of the killer", "services restarted", f"of {tasks} others done", "killer")
    for verdict in verdicts:
        table.add_row(
            verdict.system,
            f"{verdict.seconds:.0f} s",
            str(verdict.runs),
            str(verdict.restarts),
            str(verdict.done),
            verdict.killer or "still runs again and again",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())

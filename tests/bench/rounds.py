"""The order of the measurements: the systems take turns, and each turn starts its services anew.

The machine is shared and its speed drifts, so the repetitions of one system are spread over the whole run (A B C D,
A B C D, ...) and the median is taken. Only the services of one system run at a time.
"""

import secrets
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.bench.client import Report
from tests.bench.figures import Repetition, SystemFigures, summarise
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.profiling import Profiler
from tests.bench.services import BenchError, ClientProcess, Services
from tests.bench.site import Site
from tests.bench.systems import System
from tests.bench.usage import Spent, UsageMeter

_NOTICEABLE = 0.1  # share of the machine used by others from which on a line says so
_DISTURBED = 0.15  # the share from which on it is worth measuring again

Say = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True):
    """What to measure.

    Args:
        rounds: repetitions of each workload.
        seconds: how long one repetition should take.
        repeats: how often at most a repetition is measured again because processes of others disturbed it.
        scenarios: the workloads wanted; empty for all.
    """

    rounds: int
    seconds: float
    repeats: int
    scenarios: tuple[str, ...]

    def workloads(self, system: System) -> list[str]:
        """Return the workloads of this system that are wanted."""
        return [name for name in system.workloads if not self.scenarios or name in self.scenarios]


class Rounds:
    """Measures several systems in turns.

    Args:
        plan: what to measure.
        broker: the one broker for all.
        site: surroundings, without what is one system's own.
        extra_pids: processes to watch beside the systems' own, by name (broker, Redis).
        profiler: records flame graphs, or does nothing.
        step: called after each workload, with a line that says what came out.
    """

    def __init__(
        self, plan: Plan, broker: Broker, site: Site, extra_pids: dict[str, int], profiler: Profiler, step: Say
    ) -> None:
        self._plan = plan
        self._broker = broker
        self._site = site
        self._extra_pids = extra_pids
        self._profiler = profiler
        self._step = step
        self._sizes: dict[tuple[str, str], int] = {}

    def run(self, systems: Sequence[System]) -> dict[str, SystemFigures]:
        """Return the figures of each system; one that fails is left out of the rounds that follow."""
        found: dict[str, dict[str, list[Repetition]]] = {system.name: {} for system in systems}
        faults: dict[str, str] = {}
        for number in range(1, self._plan.rounds + 1):
            for system in systems:
                if system.name not in faults:
                    try:
                        self._turn(system, number, found[system.name])
                    except BenchError as error:
                        faults[system.name] = str(error)
                        self._step(f"{system.label} failed and is left out: {error}")
        return {
            system.name: SystemFigures(
                system.label,
                system.note,
                {name: summarise(repetitions) for name, repetitions in found[system.name].items()},
                faults.get(system.name),
            )
            for system in systems
        }

    def _turn(self, system: System, number: int, found: dict[str, list[Repetition]]) -> None:
        """Start a system, run its workloads once each, stop it."""
        site = new_site(system, self._site)
        commands = system.commands(site)
        with cleaned(self._broker, system.leftovers(site)), Services(site, commands) as services:
            services.start()
            for workload in self._plan.workloads(system):
                repetition = self._least_disturbed(system, workload, site, services)
                found.setdefault(workload, []).append(repetition)
                self._step(f"round {number}  {system.label:<22} {workload:<10} {_told(repetition)}")

    def _least_disturbed(self, system: System, workload: str, site: Site, services: Services) -> Repetition:
        """Measure a workload, again where others were at work, and return the repetition that they disturbed least."""
        measured = [self._repetition(system, workload, site, services)]
        while measured[-1].spent.strangers > _DISTURBED and len(measured) <= self._plan.repeats:
            measured.append(self._repetition(system, workload, site, services))
        return min(measured, key=lambda repetition: repetition.spent.strangers)

    def _repetition(self, system: System, workload: str, site: Site, services: Services) -> Repetition:
        size = self._sizes.get((system.name, workload), 0)
        arguments = [system.name, workload, "--n", str(size), "--seconds", str(self._plan.seconds)]
        client = ClientProcess(site, arguments)
        pids = services.pids | {"client": client.pid}
        meter = UsageMeter(pids | {name: pid for name, pid in self._extra_pids.items() if self._concerns(system, name)})
        spent: list[Spent] = []

        def on_event(report: Report) -> None:
            if report.event == "begin":
                self._profiler.start(f"{system.name}-{workload}", pids)
                meter.start()
            else:
                spent.append(meter.stop())

        try:
            report = client.run(on_event, services.check)
        finally:
            meter.cancel()
            self._profiler.stop()
            client.leave()
        self._sizes[system.name, workload] = report.burst.n if report.burst else len(report.latencies)
        return Repetition(report.burst, report.latencies, spent[-1])

    @staticmethod
    def _concerns(system: System, process: str) -> bool:
        return process != "redis" or system.needs_redis


def new_site(system: System, shared: Site) -> Site:
    """Return the surroundings for one turn of a system: a run word and a folder of its own."""
    run = secrets.token_hex(4)
    folder = Path(shared.folder) / f"{system.name}-{run}"
    folder.mkdir()
    return system.site(msgspec.structs.replace(shared, run=run, folder=str(folder)))


def _told(repetition: Repetition) -> str:
    if repetition.burst is not None:
        told = f"{repetition.burst.n / repetition.burst.seconds:>10,.0f} tasks/s"
    else:
        told = f"{statistics.median(repetition.latencies) * 1000:>10.2f} ms"
    strangers = repetition.spent.strangers
    return f"{told}  (others used {strangers:.0%} of the machine)" if strangers > _NOTICEABLE else told

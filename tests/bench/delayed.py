"""Warren with delayed tasks: very many that are far off, and a stream that becomes due at a steady rate."""

import statistics

from tests.bench.client import Report
from tests.bench.figures import Delayed
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.rounds import new_site
from tests.bench.services import BenchError, ClientProcess, Services
from tests.bench.site import Site
from tests.bench.systems.warren import DUE_RATE, Warren
from tests.bench.usage import UsageMeter


class DelayedRun:
    """One run: tasks for tomorrow, then some that become due at `DUE_RATE` a second; how late do they start?

    Args:
        broker: the broker of the run.
        shared: surroundings.
        tasks: how many are far off.
    """

    def __init__(self, broker: Broker, shared: Site, tasks: int) -> None:
        self._broker = broker
        self._warren = Warren()
        self._site = new_site(self._warren, shared)
        self._tasks = tasks

    def run(self) -> Delayed:
        """Return the figures.

        Raises:
            BenchError: a process ended.
        """
        commands, leftovers = self._warren.commands(self._site), self._warren.leftovers(self._site)
        with cleaned(self._broker, leftovers), Services(self._site, commands) as services:
            services.start()
            client = ClientProcess(self._site, ["warren", "delayed", "--n", str(self._tasks)])
            meter = UsageMeter({"scheduler": services.pids["scheduler"]})

            def on_event(report: Report) -> None:
                if report.event == "begin":
                    meter.start()

            try:
                report = client.run(on_event, services.check)
                spent = meter.stop()
            finally:
                meter.cancel()
                client.leave()
        if len(report.latencies) < 2:
            raise BenchError("no delayed task came back")
        cuts = statistics.quantiles(report.latencies, n=100)
        return Delayed(
            tasks=self._tasks,
            due=len(report.latencies),
            rate=DUE_RATE,
            p50_ms=round(cuts[49] * 1000, 2),
            p99_ms=round(cuts[98] * 1000, 2),
            early=sum(late < 0 for late in report.latencies),
            scheduler_peak_mb=spent.services["scheduler"].peak_mb,
        )

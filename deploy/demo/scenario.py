"""The demo from its start to its end: broker, services, job, kill, verdict."""

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from common import Client
from deploy.demo import report
from deploy.demo.corpus import library, plain_count, python_files
from deploy.demo.errors import DemoError
from deploy.demo.evidence import read_journal, read_store, samples
from deploy.demo.job import Job, Outcome
from deploy.demo.namespace import Namespace
from deploy.demo.processes import Processes, Service
from deploy.demo.screen import Screen
from deploy.local import Broker, find_broker, interrupts

_SLOTS: Final = 8  # of each worker
_FEWEST: Final = 50  # files, for a job that has a middle
_SCHEDULER_METRICS: Final = ("warren_tasks_submitted_total", "warren_tasks_completed_total", "warren_suspects_total")
_WORKER_METRICS: Final = ("warren_worker_received_total", "warren_worker_redelivered_total")


class Scenario:
    """One run of the demo.

    Args:
        stack: what is to be cleared up goes there.
        screen: where everything is shown.
        pace: seconds that the job is to take while both workers run; 0 for as fast as it goes.
    """

    def __init__(self, stack: ExitStack, screen: Screen, pace: float) -> None:
        self._stack = stack
        self._screen = screen
        self._files = python_files(library())
        if len(self._files) < _FEWEST:
            raise DemoError(f"{library()} holds {len(self._files)} Python files; the demo needs {_FEWEST} to count in")
        self._pause = round(pace * 2 * _SLOTS / len(self._files), 3)
        with interrupts.held():
            self._folder = Path(tempfile.mkdtemp(prefix="warren-demo-")).resolve()
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._database = self._folder / "warren.db"
        self._journal = self._folder / "journal"

    def run(self) -> int:
        """Run it all; returns the exit code."""
        self._screen.title(
            f"Counting the words of the standard library ({len(self._files):,} files, its tests left out) "
            "with two workers, one of which is killed"
        )
        broker = self._broker()
        namespace = Namespace(broker.url)
        if broker.node is None:
            namespace.check_reachable()
            self._stack.callback(self._leave, namespace)
        processes = Processes(self._folder, broker.url, namespace.name)
        self._stack.callback(processes.close)
        scheduler, survivor, victim = self._start(processes)
        with interrupts.held():
            client = self._stack.enter_context(Client(broker.url, namespace=namespace.name))
        outcome = self._work(Job(client, self._files, self._journal, self._pause), processes, victim)
        processes.check()
        good = self._judge(outcome, victim)
        self._show_metrics(scheduler, survivor)
        return 0 if good else 1

    def _broker(self) -> Broker:
        began = time.monotonic()
        with self._screen.working("Looking for a broker...") as say:
            broker = self._stack.enter_context(find_broker(say=say))
        self._screen.fact("broker", broker.origin, time.monotonic() - began)
        return broker

    def _start(self, processes: Processes) -> tuple[Service, Service, Service]:
        worker = ("worker_service", "deploy.demo.tasks", "--slots", str(_SLOTS))
        began = time.monotonic()
        with self._screen.working("Starting the scheduler and two workers..."):
            scheduler = processes.start(
                "scheduler", "scheduler_service", "--database-url", f"sqlite:///{self._database}"
            )
            first, second = (processes.start(f"worker {number}", *worker) for number in (1, 2))
            for service in (scheduler, first, second):
                processes.await_ready(service)
        self._screen.fact("scheduler", f"process {scheduler.pid}")
        self._screen.fact(
            "workers", f"processes {first.pid} and {second.pid}, {_SLOTS} slots each", time.monotonic() - began
        )
        return scheduler, first, second

    def _work(self, job: Job, processes: Processes, victim: Service) -> Outcome:
        slowed = f", each slowed by {self._pause * 1000:.0f} ms so that you can watch" if self._pause else ""
        self._screen.fact("input", f"{library()}, one task a file{slowed}")
        outcome = job.submit()
        self._screen.fact("submitted", f"{len(outcome.ids):,} tasks, confirmed by the broker", outcome.submit_seconds)
        alive = "2 workers"
        with self._screen.bar(len(outcome.ids)) as bar:
            for done in job.follow(outcome, processes.check):
                if done == len(outcome.ids) // 2:
                    processes.kill(victim)
                    self._screen.alarm(
                        "SIGKILL", f"to {victim.name} (process {victim.pid}) at {done} of {len(outcome.ids)}"
                    )
                    alive = "1 worker"
                bar.update(done, alive)
        return outcome

    def _judge(self, outcome: Outcome, victim: Service) -> bool:
        screen = self._screen
        screen.title("Most frequent words")
        screen.words(report.top_words(outcome))
        with screen.working("Counting again without Warren, in one process..."):
            plain = plain_count(self._files)
        store, runs = read_store(self._database), read_journal(self._journal, victim.pid)
        screen.title("Was anything lost?")
        checks = report.checks(outcome, store, runs, plain)
        for check in checks:
            screen.verdict(check.good, check.text)
        screen.fact("ran twice", report.repetitions(store, runs, victim.name))
        screen.fact("throughput", report.throughput(outcome, self._pause))
        return all(check.good for check in checks)

    def _show_metrics(self, scheduler: Service, survivor: Service) -> None:
        self._screen.title("Metrics, as scraped just now")
        for service, names in ((scheduler, _SCHEDULER_METRICS), (survivor, _WORKER_METRICS)):
            self._screen.fact(service.name, service.metrics_url)
            self._screen.verbatim(samples(service.get("/metrics")[1], names))
        self._screen.note("`make up` adds Prometheus and a dashboard, `make bench` measures the speed.")

    def _leave(self, namespace: Namespace) -> None:
        fault = namespace.delete()
        if fault:
            self._screen.error(f"The queues {namespace.name}.* could not be deleted from the broker: {fault}")

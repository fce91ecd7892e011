"""A whole Warren of real processes: a scheduler, workers, and the three logs that decide whether something was lost."""

import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common import Client
from common.tasks import Call
from deploy.local import Broker
from tests.support.conditions import wait_until
from tests.support.effects import VARIABLE, Effects
from tests.support.journal import Expected, Journal, Load
from tests.support.services import ServiceProcess
from tests.support.store import StoreFile
from tests.support.verdict import Verdict, judge

TASKS = "tests.system.tasks"
ENDLESS = 100_000
STREAM = 50.0  # tasks a second
_LOG_LINES = 60


class Cluster:
    """Starts on entering; on leaving everything is stopped, and the logs are printed if the test failed.

    Args:
        broker: where.
        folder: for the database and the logs.
        namespace: by default a new one.
        workers: how many workers.
        slots: of each worker.
        environment: for all services.
        scheduler: more of the scheduler's environment.
        worker: more of the workers' environment, or one for each worker.
        launcher: the arguments that start a service, `-m` by default; `tests.system.mutants` is another one.
        client_url: the clients' way to the broker, when it is another one.
        database: the scheduler's, by default in `folder`.
        restart: start services again when they die.
        tasks: the module that the workers load.
    """

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        *,
        namespace: str = "",
        workers: int = 1,
        slots: int = 8,
        environment: Mapping[str, str] | None = None,
        scheduler: Mapping[str, str] | None = None,
        worker: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None,
        launcher: Sequence[str] = ("-m",),
        client_url: str = "",
        database: Path | None = None,
        restart: bool = True,
        tasks: str = TASKS,
    ) -> None:
        self.broker = broker
        self._client_url = client_url or broker.url
        self.namespace = namespace or f"w{secrets.token_hex(4)}"
        self.folder = folder
        self.store = StoreFile(database or folder / "warren.db")
        self.effects = Effects(folder / "effects.log")
        self.journal = Journal()
        self.clients: list[Client] = []
        shared = _inherited() | {
            "WARREN_AMQP_URL": broker.url,
            "WARREN_NAMESPACE": self.namespace,
            "WARREN_HTTP_PORT": "0",
            "WARREN_LOG_FORMAT": "json",
            "WARREN_HEARTBEAT": "5",
            "WARREN_CONFIG": os.devnull,
            VARIABLE: str(self.effects.path),
            **(environment or {}),
        }
        mine = {"WARREN_DATABASE_URL": self.store.url, **(scheduler or {})}
        command = [sys.executable, *launcher]
        self.scheduler = ServiceProcess(
            "scheduler",
            [*command, "scheduler_service"],
            shared | mine,
            folder / "scheduler.log",
            restart=restart,
            forked=True,
        )
        theirs = [worker or {}] * workers if worker is None or isinstance(worker, Mapping) else list(worker)
        self.workers = [
            ServiceProcess(
                f"worker-{number}",
                [*command, "worker_service", tasks, "--slots", str(slots)],
                shared | {"WARREN_CHILD_ENVIRONMENT": VARIABLE} | dict(each),
                folder / f"worker-{number}.log",
                restart=restart,
                forked=True,
            )
            for number, each in enumerate(theirs)
        ]

    def __enter__(self) -> Self:
        try:
            self.launch()
            self.settle()
        except BaseException:
            self.show_logs()
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self.show_logs()
        self.stop()

    def launch(self) -> None:
        """Start the processes, without waiting for them."""
        self.folder.mkdir(exist_ok=True)
        for service in self.services:
            service.start()

    def settle(self) -> None:
        """Wait until all are ready; from here on the broker may be killed, and the store's diary is kept."""
        self.await_ready()
        self.store.keep_diary()
        if self.broker.node is not None:
            self.broker.node.flush_metadata()

    @property
    def services(self) -> list[ServiceProcess]:
        """The scheduler and the workers."""
        return [self.scheduler, *self.workers]

    def await_ready(self, timeout: float = 30.0) -> None:
        """Return when every service that is kept running says that it is ready."""
        for service in self.services:
            if service.running:
                service.await_ready(timeout)

    def client(self, **settings: Any) -> Client:
        """Return a client, closed at the end."""
        settings.setdefault("heartbeat", 5)
        client = Client(settings.pop("amqp_url", self._client_url), namespace=self.namespace, **settings)
        self.clients.append(client)
        return client

    def load(self, make: Callable[[int], tuple[Call[Any], Expected]], count: int, **options: Any) -> Load:
        """Start a stream of `count` submissions by a client of its own."""
        return Load(self.client(), self.journal, make, count=count, **options).start()

    def stream(self, make: Callable[[int], tuple[Call[Any], Expected]], **options: Any) -> Load:
        """`load` for as long as a fault takes, until it is `enough`: a flow that leaves the machine to the fault."""
        return self.load(make, ENDLESS, **{"chunk": 10, "window": 60, "rate": STREAM, **options})

    def out(self) -> dict[str, float]:
        """Return what the scheduler still counts in its windows and backlog; a leak there would close them in time."""
        names = ("warren_in_flight_tasks", "warren_tasks")
        return {name: count for name in names if (count := self.scheduler.metric(name))}

    def leftovers(self) -> dict[str, str]:
        """Return the queues of this namespace that hold messages, ready or unacked."""
        node = self.broker.node
        assert node is not None
        prefix = f"{self.namespace}."
        return {
            name: f"{depth.ready} ready, {depth.unacked} unacked"
            for name, depth in node.queue_depths().items()
            if name.startswith(prefix) and (depth.ready or depth.unacked)
        }

    def judge(self, *, allowed: Sequence[str] = (), timeout: float = 15.0) -> Verdict:
        """Compare the three logs; see `tests.support.verdict`.

        Args:
            allowed: texts of log lines in which a traceback is what the test wants.
            timeout: seconds until the queues are empty and the services ready.
        """
        faults = []
        try:
            if self.broker.node is not None:
                wait_until(lambda: not self.leftovers(), timeout, "the queues are empty", self.leftovers)
        except AssertionError as error:
            faults.append(str(error))
        try:
            self.await_ready(timeout)
        except AssertionError as error:
            faults.append(str(error))
        try:
            wait_until(lambda: not self.out(), timeout, "the scheduler counts nothing as out", self.out)
        except AssertionError as error:
            faults.append(str(error))
        logs = {service.name: service.said() for service in self.services}
        return judge(self.journal, self.effects, self.store, logs, allowed=allowed, faults=faults)

    def assert_nothing_lost(self, *, allowed: Sequence[str] = (), timeout: float = 15.0) -> Verdict:
        """`judge`, and raise what is wrong.

        Raises:
            AssertionError: with everything that is wrong.
        """
        verdict = self.judge(allowed=allowed, timeout=timeout)
        assert not verdict.faults, "\n".join(verdict.faults)
        return verdict

    def stop(self) -> None:
        """Stop what runs, at once where the broker can tell what is unacked; else in good order, workers first."""
        how = signal.SIGTERM if self.broker.node is None else signal.SIGKILL
        for client in self.clients:
            client.close()
        for service in reversed(self.services):
            service.stop(how)

    def show_logs(self) -> None:
        """Print the end of each log, for the report of a failed test."""
        for service in self.services:
            lines = service.said().splitlines()
            print(f"--- {service.name} (exits {service.exits}), the last of {len(lines)} lines")
            print("\n".join(line[:1500] for line in lines[-_LOG_LINES:]))


def _inherited() -> dict[str, str]:
    """Our environment without what would configure a Warren."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}

"""A small tenant beside a large one: on a real broker, a scheduler and two workers of five slots."""

import contextlib
from pathlib import Path

from common.client.sync import Client
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.mix import await_workers
from tests.bench.rounds import new_site
from tests.bench.services import Services
from tests.bench.site import Site
from tests.bench.systems import Command
from tests.bench.systems.warren import Warren
from tests.support import tenants

WORKERS = 2
SLOTS = 5


def beside(broker: Broker, folder: Path, run: float, backlog: int, tries: int) -> tenants.Tenancy:
    """Measure both.

    Args:
        broker: where.
        folder: for logs and the store; it is made.
        run: seconds that each task runs.
        backlog: tasks of the large tenant.
        tries: how often the small one submits its ten.

    Raises:
        BenchError: a process ended.
    """
    folder.mkdir()
    warren = Warren()
    site = new_site(warren, Site(broker.url, "", "", str(folder), SLOTS))
    scheduler, worker = warren.commands(site)
    argv = [tenants.TASKS if each == "tests.bench.apps.warren_tasks" else each for each in worker.argv]
    commands = [scheduler, *(Command(f"worker-{number}", argv, worker.environment) for number in range(WORKERS))]
    namespace = scheduler.environment["WARREN_NAMESPACE"]
    with (
        cleaned(broker, warren.leftovers(site)),
        Services(site, commands) as services,
        contextlib.ExitStack() as clients,
    ):
        services.start()

        def connect() -> Client:
            return clients.enter_context(Client(broker.url, namespace=namespace))

        client = connect()
        await_workers(lambda: len(client.workers()), services, WORKERS)
        tenancy = tenants.measure(connect, run, backlog=backlog, tries=tries)
        services.check()
    return tenancy

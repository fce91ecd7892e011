"""The mix of short and long tasks on a real broker: on Warren, and on plain consumers that compete for one queue.

Both have a worker process for each of `MACHINES`, and the same tasks, submitted in the same order at the same times.
"""

import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import call
from common.client.sync import Client, Handle
from common.errors import ResultTimeout
from tests.bench.apps.competing import Ran
from tests.bench.competing import PATIENCE, Submission, Tick, declared
from tests.bench.infrastructure import Broker, cleaned
from tests.bench.loop import new_runner
from tests.bench.rounds import new_site
from tests.bench.services import BenchError, Services
from tests.bench.site import Site
from tests.bench.systems import Command, Leftovers
from tests.bench.systems.warren import Warren
from tests.support.scheduling import CAPACITY, MACHINES, SHORT, Arrivals, Mix, due


def on_warren(broker: Broker, folder: Path, arrivals: Arrivals, tick: Tick) -> Mix:
    """The mix on a scheduler and its workers.

    Args:
        broker: where.
        folder: for logs and the store.
        arrivals: the tasks, and when each is submitted.
        tick: called with each task that is over.

    Raises:
        BenchError: a process ended, or nothing came back any more.
    """
    warren = Warren()
    site = new_site(warren, Site(broker.url, "", "", str(folder), 4))
    scheduler, worker = warren.commands(site)
    commands = [scheduler]
    for number, (slots, speed) in enumerate(MACHINES):
        argv = [*worker.argv[:3], "tests.bench.apps.mix_tasks", "--queues", "default", "--slots", str(slots)]
        commands.append(Command(f"worker-{number}", argv, worker.environment | {"WARREN_BENCH_SPEED": str(speed)}))
    namespace = scheduler.environment["WARREN_NAMESPACE"]
    with (
        cleaned(broker, warren.leftovers(site)),
        Services(site, commands) as services,
        Client(broker.url, namespace=namespace) as client,
    ):
        services.start()
        await_workers(lambda: len(client.workers()), services, len(MACHINES))
        began = time.time()
        handles: list[Handle[Any]] = []
        while len(handles) < len(arrivals):
            come = due(arrivals, time.time() - began, len(handles))
            handles += client.submit_many([call("bench.mix", arrivals[number][1]) for number in come])
            await_next(arrivals, began, len(handles))
        try:
            for _ in client.as_completed(handles, timeout=PATIENCE + sum(run for _, run in arrivals)):
                tick()
        except ResultTimeout as error:
            services.check()
            raise BenchError(str(error)) from error
        return _mix(arrivals, began, [Ran(*handle.result()) for handle in handles])


def on_competing_consumers(broker: Broker, folder: Path, arrivals: Arrivals, prefetch: int, tick: Tick) -> Mix:
    """The mix on consumers of one durable quorum queue; a persistent and confirmed message for each task.

    Args:
        broker, folder, arrivals: as in `on_warren`.
        prefetch: messages that a consumer may hold for each of its slots.
        tick: called with each task that is over.

    Raises:
        BenchError: as in `on_warren`.
    """
    run = secrets.token_hex(4)
    place = folder / f"competing-{run}"
    place.mkdir()
    site = Site(broker.url, "", run, str(place), 4)
    queue = f"bench-{run}.competing"
    program = [sys.executable, "-m", "tests.bench.apps.competing", queue, "--prefetch", str(prefetch)]
    commands = [
        Command(f"consumer-{number}", [*program, "--slots", str(slots), "--speed", str(speed)])
        for number, (slots, speed) in enumerate(MACHINES)
    ]
    with cleaned(broker, Leftovers([queue], [])), Services(site, commands) as services:
        with declared(broker.url, queue) as consumers:
            services.start()
            await_workers(consumers, services, len(MACHINES))
        with new_runner() as runner:
            began, ran = runner.run(Submission(queue, arrivals, tick).run(broker.url, services.check))
    return _mix(arrivals, began, ran)


def await_workers(count: Callable[[], int], services: Services, wanted: int) -> None:
    """Return when so many workers are there.

    Raises:
        BenchError: they did not come, or a process ended.
    """
    deadline = time.monotonic() + PATIENCE
    while count() < wanted:
        services.check()
        if time.monotonic() > deadline:
            raise BenchError("the workers are not heard of")
        time.sleep(0.2)


def await_next(arrivals: Arrivals, began: float, number: int) -> None:
    """Return when this task is to be submitted; at once when there is none."""
    if number < len(arrivals):
        time.sleep(max(0.0, began + arrivals[number][0] - time.time()))


def _mix(arrivals: Arrivals, began: float, ran: list[Ran]) -> Mix:
    """What came out. The bound is that of the run times as they were: on a busy machine 10 ms take longer."""
    work = sum((each.ended - each.began) * each.speed for each in ran)
    waits = [(run, each.began - began - at) for (at, run), each in zip(arrivals, ran, strict=True)]
    return Mix(
        max(each.ended for each in ran) - began,
        max(work / CAPACITY, arrivals[-1][0]),
        sorted(waited for run, waited in waits if run == SHORT),
        sorted(waited for run, waited in waits if run != SHORT),
    )

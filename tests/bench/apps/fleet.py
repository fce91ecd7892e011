"""Many workers that do nothing but beat: real beats, each with its own channel and control queue, in one process."""

import argparse
import asyncio
import signal
from pathlib import Path
from typing import Any

import uvloop

from common.broker import Connection, Publisher
from common.ids import new_task_id
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Assignment, Load
from tests.bench.site import Site
from worker_service.attempts import Attempt, DeliveredBundle, Leases
from worker_service.beats import Beats, Condition
from worker_service.control import ControlListener

_SLOTS = 100
_PER_CONNECTION = 50
_FUNCTIONS = [f"shop.functions.function_{number}" for number in range(50)]


class _Nobody:
    async def ack(self) -> bool:
        return True


def _leases(first: int, count: int) -> Leases:
    """Leases of running attempts, named as those that `tests.bench.beats` puts into the store."""
    leases = Leases()
    now = asyncio.get_running_loop().time()
    for number in range(first, first + count):
        assignment = Assignment(new_task_id(), "shop.work", f"lease-{number}", 1)
        attempt = Attempt(assignment, DeliveredBundle(_Nobody(), "default"), now)
        attempt.started = now
        leases.hold(attempt)
    return leases


def _condition() -> Condition:
    load = Load(load_average=1.25, cores=8, memory=123_456_789, loop_lag=0.0012)
    return Condition(slots=_SLOTS, capacity=_SLOTS, load=load, paused=False, closed=False, direct=False)


class Fleet:
    """The workers.

    Args:
        site: surroundings.
        namespace: of the scheduler.
        workers: how many.
        leases: that each of them holds.
    """

    def __init__(self, site: Site, namespace: str, workers: int, leases: int) -> None:
        self._site = site
        self._topology = Topology(namespace)
        self._telemetry = Telemetry()
        self._connections: list[Connection] = []
        self._parts: list[Any] = []
        self.beats: list[Beats] = []
        self._workers, self._leases = workers, leases

    async def start(self) -> None:
        """Connect and begin to beat."""
        for first in range(0, self._workers, _PER_CONNECTION):
            consuming, publishing = await self._connect("consume"), await self._connect("publish")
            for number in range(first, min(self._workers, first + _PER_CONNECTION)):
                await self._add(number, consuming, publishing)
                await asyncio.sleep(1.0 / self._workers)  # as real ones, they do not beat all at once

    async def stop(self) -> None:
        """Take leave."""
        for part in (*self._parts, *self._connections):
            await part.stop()

    async def _connect(self, purpose: str) -> Connection:
        connection = Connection(
            self._site.amqp_url, name=purpose, heartbeat=10, connect_timeout=10.0, telemetry=self._telemetry
        )
        await connection.start()
        await connection.ready(20.0)
        self._connections.append(connection)
        return connection

    async def _add(self, number: int, consuming: Connection, publishing: Connection) -> None:
        worker = f"simulated-{number}-{new_task_id()[:8]}"
        beats = Beats(
            worker,
            Publisher(publishing, timeout=10.0, telemetry=self._telemetry),
            self._topology.beat_exchange.name,
            _leases(1 + number * self._leases, self._leases),
            queues=["default"],
            functions=_FUNCTIONS,
            processes=2,
            labels=["eu"],
            condition=_condition,
            interval=1.0,
            version="bench",
        )
        nothing: Any = lambda *_: None  # noqa: E731
        control = ControlListener(
            consuming,
            lambda: self._topology.control_queue(worker, "simulated"),
            beats.probe,
            renew=nothing,
            cancel=nothing,
            mark=nothing,
            missed=nothing,
            command=nothing,
            refuse=nothing,
            telemetry=self._telemetry,
        )
        for part in (control, beats):
            await part.start()
        self.beats.append(beats)
        self._parts += [beats, control]


async def main() -> None:
    """Beat until SIGTERM; the file `beats` of the site says how many were sent so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--leases", type=int, required=True)
    options = parser.parse_args()
    site = Site.from_environment()
    fleet = Fleet(site, options.namespace, options.workers, options.leases)
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await fleet.start()
    while not over.is_set():
        _write(site.file("beats"), sum(beats.sent for beats in fleet.beats))
        try:
            async with asyncio.timeout(0.2):
                await over.wait()
        except TimeoutError:
            continue
    await fleet.stop()


def _write(file: Path, count: int) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(str(count))
    fresh.replace(file)


if __name__ == "__main__":
    uvloop.run(main())

"""Briefer: tells workers that have just begun to listen which dispatches they may have missed something about.

A worker says in its beats that it could not hear until now. What is dispatched from that moment on it hears everything
about, so it is told the number of the next dispatch, and gives back what has a lower one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from common.background import Background, Report
from common.broker import Publisher
from common.errors import BrokerError
from common.topology import Topology
from common.wire import Control, ControlVerb
from scheduler_service.fleet.flights import Flights

MOST: Final = 10_000
"""Workers that wait for an answer at most; the others ask again."""

log = logging.getLogger(__name__)


class Briefer:
    """Sends `Control` with the verb `mark`. Before its start it answers nobody: the numbers are not known yet.

    Args:
        publisher: the publishing connection's publisher.
        topology: the names.
        flights: numbers the dispatches.
        report: told when the loop dies.
    """

    def __init__(self, publisher: Publisher, topology: Topology, flights: Flights, *, report: Report) -> None:
        self._publisher = publisher
        self._topology = topology
        self._flights = flights
        self._marks: dict[str, tuple[str, int]] = {}
        self._wake = asyncio.Event()
        self._loop = Background("brief", self._run, report)

    async def start(self) -> None:
        """Answer from now on."""
        self._loop.start()

    async def drain(self) -> None:
        """Go on: a worker that waits for this takes nothing."""

    async def stop(self) -> None:
        """Answer no more."""
        await self._loop.stop()

    def asked(self, worker: str, token: str) -> None:
        """A beat of this worker asks with this token."""
        if self._loop.running and (worker in self._marks or len(self._marks) < MOST):
            self._marks[worker] = (token, self._flights.next_number)
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            marks, self._marks = self._marks, {}
            await asyncio.gather(*(self._tell(worker, token, mark) for worker, (token, mark) in marks.items()))

    async def _tell(self, worker: str, token: str, mark: int) -> None:
        message = Control(ControlVerb.MARK, token, number=mark)
        try:
            await self._publisher.publish(
                self._topology.control_exchange.name, f"worker.{worker}", message, persistent=False
            )
        except BrokerError as error:
            # It asks again with its next beat.
            log.debug("a worker was not told the mark", extra={"worker": worker, "reason": str(error)})

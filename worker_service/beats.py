"""Beats: this worker is alive, and has these leases.

At most one a second and on change. What a beat lists is what the scheduler leaves to this worker; a lease is listed
from the decoding of its bundle until its outcome is confirmed, so that it is at no time in nobody's hands.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from common.background import Background, Report
from common.broker import Publisher
from common.errors import BrokerError
from common.wire import Beat, Load
from worker_service.attempts import Leases

FIRST_WITH_FUNCTIONS: Final = 3
FUNCTIONS_EVERY: Final = 10.0
_LAST_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Condition(Struct, frozen=True):
    """How this worker is now, as far as its beats say so.

    Attributes:
        slots: how many tasks it runs at a time at present.
        capacity: how many were configured.
        load: how busy it is.
        paused: an operator has told it to take nothing.
        closed: it takes nothing for the moment.
        direct: it consumes its own queue.
        asking: the token with which it asks what it may have missed, when it listens by now; else empty.
    """

    slots: int
    capacity: int
    load: Load
    paused: bool
    closed: bool
    direct: bool
    asking: str = ""


class Beats:
    """Sends beats.

    Args:
        worker: this worker's id.
        publisher: with a channel of its own; beats are not persistent.
        exchange: the beat exchange's name.
        leases: what this worker holds.
        queues: the queues it serves.
        functions: the task functions that it can run.
        barred: those that it knows and may not run, because it lacks labels that they require.
        processes: how many processes run functions with ``runtime="process"``.
        labels: what it has.
        condition: how it is now.
        interval: seconds between two beats.
        version: of this program.
        crashed: whether the worker ends because it crashed: then it does not say that it leaves, so that its death
            counts for the tasks that ran, any of which may have been the cause.
        report: told of a crash.
    """

    def __init__(
        self,
        worker: str,
        publisher: Publisher,
        exchange: str,
        leases: Leases,
        *,
        queues: Sequence[str],
        functions: Sequence[str],
        barred: Sequence[str] = (),
        processes: int,
        labels: Sequence[str],
        condition: Callable[[], Condition],
        interval: float,
        version: str,
        crashed: Callable[[], bool] = lambda: False,
        report: Report | None = None,
    ) -> None:
        self._worker = worker
        self._publisher = publisher
        self._exchange = exchange
        self._leases = leases
        self._queues = list(queues)
        self._functions, self._barred = sorted(functions), sorted(barred)
        self._processes = processes
        self._labels = sorted(labels)
        self._condition = condition
        self._interval = interval
        self._version = version
        self._crashed = crashed
        self._host = socket.gethostname()
        self._started_at = time.time()
        self._number = 0
        self._probe = ""
        self._functions_due = 0.0
        self._draining = False
        self._left = False
        self._changed = asyncio.Event()
        self._background = Background("beats", self._work, report)

    @property
    def sent(self) -> int:
        """How many beats were published, whether they were confirmed or not."""
        return self._number

    def changed(self) -> None:
        """Send a beat now."""
        self._changed.set()

    def probe(self, token: str) -> None:
        """Send a beat with this token and with the functions now."""
        self._probe = token
        self._functions_due = 0.0
        self._changed.set()

    async def announce(self) -> None:
        """Send a beat and wait for its confirm; when none comes in time, the next beat has to do."""
        await self._send(leaving=False, timeout=max(1.0, self._interval))

    def mark_draining(self) -> None:
        """Say in all beats from now on that this worker takes nothing more."""
        self._draining = True
        self._changed.set()

    async def start(self) -> None:
        """Start sending."""
        self._background.start()

    async def drain(self) -> None:
        """Go on sending: what is drained is still held."""
        self.mark_draining()

    async def stop(self) -> None:
        """Send the last beat, which says that this worker is gone, if that is possible within a second."""
        running = self._background.running
        await self._background.stop()
        if running and not self._left and not self._crashed() and self._publisher.connected:
            self._left = True
            await self._send(leaving=True, timeout=_LAST_SECONDS)

    async def _work(self) -> None:
        while True:
            await self._publisher.ready()
            self._changed.clear()
            await self._send(leaving=False, timeout=max(1.0, self._interval))
            try:
                async with asyncio.timeout(self._interval):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _send(self, *, leaving: bool, timeout: float) -> None:
        try:
            await self._publisher.publish(
                self._exchange, "beat", self._next(leaving), persistent=False, mandatory=False, timeout=timeout
            )
        except BrokerError as error:
            # A missed beat is replaced by the next one; a stalled one must not hold up anything.
            _log.debug("a beat was not confirmed", extra={"reason": str(error)})

    def _next(self, leaving: bool) -> Beat:
        self._number += 1
        now = time.monotonic()
        with_functions = self._number <= FIRST_WITH_FUNCTIONS or now >= self._functions_due
        if with_functions:
            self._functions_due = now + FUNCTIONS_EVERY
        running, ages, waiting = self._leases.split(asyncio.get_running_loop().time())
        condition = self._condition()
        return Beat(
            worker=self._worker,
            number=self._number,
            queues=self._queues,
            slots=condition.slots,
            running=running,
            waiting=waiting,
            ages=ages,
            capacity=condition.capacity,
            processes=self._processes,
            labels=self._labels,
            load=condition.load,
            paused=condition.paused,
            direct=condition.direct,
            asking=condition.asking,
            draining=self._draining or condition.closed,
            leaving=leaving,
            probe=self._probe,
            interval=self._interval,
            host=self._host,
            pid=os.getpid(),
            version=self._version,
            started_at=self._started_at,
            functions=self._functions if with_functions else None,
            barred=self._barred if with_functions and self._barred else None,
        )

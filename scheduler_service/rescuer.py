"""Rescuer: finds dispatches that are in nobody's hands, and has their tasks dispatched anew.

Two kinds of dispatch are in question. *Suspects*: the broker redelivered their bundle, so that whoever had it has died
or was cut off. *Missing*: out for a while and in no live worker's last beat, although their work queue showed no ready
message (the broker lost its data, a queue was purged, a worker froze).

A snapshot proves nothing: a worker may have answered a moment ago. So each judgement is a *round*, in which every step
happens after the one before it, and a lease is lost only when it is found nowhere along the path::

    work queue shows 0 ready        what was dispatched before is at a worker, or gone        (missing only)
      -> probe to all workers       each answers with a beat that carries the round's token
      -> every live worker has answered or is dead    a lease that none of them lists is held by none
      -> a barrier through the reply queue            every reply that was confirmed before has been applied
      -> what is still out, and listed by nobody, is lost

What vanished although nobody died may have been handed to a consumer that the broker knows and nobody has, so workers
are told to subscribe anew before it is dispatched again. What was redelivered did not vanish, the queue hands it out.
RabbitMQ 4.3 redelivers what was on its way to a consumer that was cancelled: a new subscription would make more of it.

What was dispatched to the direct queue of one worker is found in the same rounds, without a look at that queue: nobody
else may look at it, it ends with the worker's connection, and a worker that lives is handed at once what is in it. So
it is in question at once when its worker is not there, and else when that worker has not listed it for a while; then
the worker is told to drop the lease before it is dispatched anew, in case the bundle is on its way after all.

A worker is dead when it is silent for too long, or sooner when a message to its exclusive control queue is unroutable:
then its connection is gone, and with a second's grace to come back, so is the worker. So whoever is late is asked: of
what a dead worker had acked (`held`), no redelivery tells.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from common.background import Background, Report
from common.broker import Connection, Publisher, ready_messages
from common.errors import BrokerError, PublishRefused, StoreError
from common.ids import new_nonce
from common.states import Lost
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Barrier, Control, ControlVerb
from scheduler_service import events, operations
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flight, Flights

log = logging.getLogger(__name__)

WARM_UP: Final = 2.5
"""Seconds after (re)connecting until the directory can be trusted: every live worker has beaten twice."""
GRACE: Final = 1.0
"""Seconds that a worker without a connection has to come back before it counts as dead."""
ANSWER: Final = 0.3
"""Seconds after which a worker that has not answered a probe is asked by name."""
LATE: Final = 3
"""Beats that a worker may miss before it is asked by name."""
LATE_DIRECT: Final = 1.5
"""The same for one that has a direct queue with something in it."""
STUBBORN: Final = 3
"""Searches after which a queue that never shows 0 ready is paused until it does."""
BARRIER_TIMEOUT: Final = 30.0

Apply = Callable[[Sequence[operations.Report]], Awaitable[object]]


class Rescuer:
    """Judges dispatches in rounds.

    Args:
        connection: a connection to look at queues with.
        publisher: the publishing connection's publisher.
        topology: the names.
        flights: what is out.
        directory: the live workers.
        apply: applies reports (the collector's).
        freed: called when workers died: windows have changed.
        interval: seconds between two searches for missing dispatches.
        telemetry: where `Lost` goes.
        report: told when the loop dies.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        topology: Topology,
        flights: Flights,
        directory: Directory,
        *,
        apply: Apply,
        freed: Callable[[], None],
        interval: float,
        telemetry: Telemetry,
        report: Report,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._topology = topology
        self._flights = flights
        self._directory = directory
        self._apply = apply
        self._freed = freed
        self._interval = interval
        self._telemetry = telemetry
        self._suspects: set[str] = set()
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._barriers: dict[str, asyncio.Event] = {}
        self._stubborn: Counter[str] = Counter()
        self._connected_at = 0.0
        self._searched_at = 0.0
        self._present: set[str] = set()
        self._loop = Background("rescue", self._run, report)
        connection.on_connected(self._on_connected)

    async def start(self) -> None:
        """Start the loop."""
        self._loop.start()

    async def drain(self) -> None:
        """Judge no more."""
        await self._loop.stop()

    async def stop(self) -> None:
        """Judge no more."""
        await self._loop.stop()

    def suspect(self, leases: Iterable[str]) -> None:
        """These leases were redelivered, or dead-lettered: find out whether anybody holds them."""
        known = [lease for lease in leases if lease in self._flights.by_lease]
        if known:
            self._suspects.update(known)
            self._wake.set()

    def heard(self) -> None:
        """Beats have come in."""
        self._heard.set()

    def passed(self, token: str) -> None:
        """The barrier with this token came through the reply queue."""
        barrier = self._barriers.get(token)
        if barrier is not None:
            barrier.set()

    async def _on_connected(self) -> None:
        now = time.monotonic()
        self._connected_at = now
        self._directory.forgive(now)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            now = time.monotonic()
            if not self._connection.connected or now - self._connected_at < WARM_UP:
                continue
            try:
                self._bury(now)
                await self._ask_the_late(now)
                await self._judge(await self._questionable(now))
            except (BrokerError, StoreError, TimeoutError) as error:
                log.warning("a rescue is put off", extra={"reason": str(error)})

    async def _questionable(self, now: float) -> list[Flight]:
        flights = self._flights.by_lease
        self._suspects.intersection_update(flights)
        suspects = [flights[lease] for lease in self._suspects]
        if self._present - self._directory.workers.keys():
            self._searched_at = 0.0
        self._present = set(self._directory.workers)
        if now - self._searched_at < self._interval:
            return suspects
        self._searched_at = now
        listed = {lease for worker in self._directory.workers.values() for lease in worker.leases}
        missing: dict[str, list[Flight]] = defaultdict(list)
        for flight in flights.values():
            if not flight.confirmed or flight.lease in listed or flight.lease in self._suspects:
                continue
            old = flight.adopted or now - flight.dispatched_at > self._interval
            if flight.worker and (old or flight.worker not in self._directory.workers):
                suspects.append(flight)
            elif not flight.worker and old:
                missing[flight.queue].append(flight)
        for queue in [queue for queue in self._stubborn if queue not in missing]:
            del self._stubborn[queue]
        self._flights.paused.intersection_update(missing)
        for queue, candidates in missing.items():
            if await self._has_run_empty(queue):
                suspects += candidates
        return suspects

    async def _has_run_empty(self, queue: str) -> bool:
        """Whether no message waits in the work queue; when it does time and again, see to it that it comes to that."""
        ready = await ready_messages(self._connection, self._topology.work_queue(queue))
        if not ready:
            del self._stubborn[queue]
            return True
        self._stubborn[queue] += 1
        await self._control("all", Control(ControlVerb.RENEW, queue=queue))
        if self._stubborn[queue] >= STUBBORN and queue not in self._flights.paused:
            log.warning("dispatch pauses until the work queue is empty", extra={"queue": queue, "ready": ready})
            self._flights.paused.add(queue)
        return False

    async def _judge(self, candidates: Sequence[Flight]) -> None:
        if not candidates:
            return
        token = new_nonce()
        await self._probe(token, candidates)
        await self._pass_barrier(token)
        reports = []
        lost: dict[str, list[bool]] = defaultdict(list)
        vanished: dict[str, list[str]] = defaultdict(list)
        again: Counter[str] = Counter()
        renewed: set[str] = set()
        for flight in candidates:
            redelivered = flight.lease in self._suspects
            self._suspects.discard(flight.lease)
            if flight.lease not in self._flights.by_lease or self._directory.holder(flight.lease) is not None:
                continue
            died = self._holder_died(flight)
            reports.append(
                operations.Report(
                    flight.id,
                    Lost(flight.lease, died, self._directory.running_at_dead(flight.lease)),
                    self._directory.dead_holder(flight.lease),
                )
            )
            if flight.worker:
                vanished[flight.worker].append(flight.lease)
            if flight.cancelled:
                continue
            if redelivered and not died:
                again[flight.queue] += 1
                continue
            lost[flight.queue].append(died)
            if not (died or flight.worker):
                renewed.add(flight.queue)
        for queue in {flight.queue for flight in candidates}:
            self._flights.paused.discard(queue)
        if not reports:
            return
        for queue in renewed:
            await self._control("all", Control(ControlVerb.RENEW, token, queue))
        for worker, leases in vanished.items():
            if worker in self._directory.workers:
                await self._control(f"worker.{worker}", Control(ControlVerb.CANCEL, leases=leases))
        await self._apply(reports)
        for queue, count in again.items():
            log.info("redelivered and in nobody's hands, dispatched anew", extra={"queue": queue, "tasks": count})
        for queue, died_each in lost.items():
            log.warning(
                "dispatches were lost", extra={"queue": queue, "tasks": len(died_each), "suspects": sum(died_each)}
            )
            self._telemetry.emit(events.Lost(queue, len(died_each), sum(died_each)))

    def _holder_died(self, flight: Flight) -> bool:
        """Whether a worker that held it, or may have held it, died."""
        if flight.worker:
            return self._directory.has_died(flight.worker)
        return self._directory.holder_died(flight.lease, flight.queue, flight.dispatched_at)

    async def _probe(self, token: str, candidates: Sequence[Flight]) -> None:
        await self._send(token, "all")
        asked_at = first_asked_at = time.monotonic()
        while True:
            now = time.monotonic()
            self._bury(now)
            silent = [name for name, worker in self._directory.workers.items() if worker.beat.probe != token]
            # With no worker known, one may be there all the same, and its beat on the way.
            answered = not silent and (self._directory.workers or now - first_asked_at > ANSWER)
            if answered or all(self._decided(flight) for flight in candidates):
                return
            if now - asked_at > ANSWER:
                asked_at = now
                for name in silent:
                    await self._ask(name, token)
            self._heard.clear()
            try:
                async with asyncio.timeout(ANSWER):
                    await self._heard.wait()
            except TimeoutError:
                pass

    def _decided(self, flight: Flight) -> bool:
        if flight.lease not in self._flights.by_lease:
            return True
        return self._directory.holder(flight.lease) is None and self._directory.held_by_dead(flight.lease)

    async def _ask_the_late(self, now: float) -> None:
        # Of the death of one that was given tasks directly no redelivery tells.
        direct = {flight.worker for flight in self._flights.by_lease.values() if flight.worker}
        late = [
            name
            for name, worker in self._directory.workers.items()
            if now - worker.heard_at > (LATE_DIRECT if name in direct else LATE) * worker.beat.interval
        ]
        for name in late:
            await self._ask(name, new_nonce())

    async def _ask(self, name: str, token: str) -> None:
        connected = await self._send(token, f"worker.{name}")
        worker = self._directory.workers.get(name)
        if worker is None:
            return
        if connected:
            worker.gone_since = None
        elif worker.gone_since is None:
            worker.gone_since = time.monotonic()

    async def _send(self, token: str, key: str) -> bool:
        return await self._control(key, Control(ControlVerb.PROBE, token))

    async def _control(self, key: str, message: Control) -> bool:
        """Tell workers; False when nobody hears it."""
        try:
            await self._publisher.publish(self._topology.control_exchange.name, key, message, persistent=False)
        except PublishRefused as error:
            if error.unroutable:
                return False
            raise
        return True

    def _bury(self, now: float) -> None:
        for death in self._directory.bury_silent(now, GRACE, self._connected_at):
            log.warning("a worker died", extra={"worker": death.worker, "leases": len(death.leases)})
            self._searched_at = 0.0
            self._wake.set()
            self._freed()

    async def _pass_barrier(self, token: str) -> None:
        passed = self._barriers[token] = asyncio.Event()
        try:
            await self._publisher.publish(self._topology.reply_exchange.name, "reply", Barrier(token))
            async with asyncio.timeout(BARRIER_TIMEOUT):
                await passed.wait()
        finally:
            del self._barriers[token]

"""Sender: publishes committed dispatches until the broker confirms them, each bundle by itself.

From its commit on a dispatch is *out*: published until it is confirmed, always with the same lease, because a publish
that failed or timed out may have arrived all the same. Publishes are in flight together and each has its own outcome.

A bundle goes to the work queue of its queue, which is made when it is missing; or, when only some workers can run it or
it is express, to the direct queue of one of them. Nobody makes that but the worker: when it is missing the worker is
gone. Then the leases are given back at once, without an attempt counted, unless a copy of the bundle may have arrived:
that is for the rescuer to find out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from common.backoff import reconnect_wait
from common.broker import REST, Connection, Publisher, declare
from common.clocks import steady
from common.errors import BrokerError, PublishRefused, StoreError
from common.failpoints import reached
from common.states import Returned
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Bundle, Isolation
from scheduler_service import operations
from scheduler_service.bundles import pack
from scheduler_service.events import Dispatched
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.operations import Report
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

LONGEST_RETRY = 5.0
"""Seconds between two tries at most to publish a bundle."""


class Sender:
    """Publishes bundles, and makes work queues.

    Args:
        connection: the connection on which queues are declared.
        publisher: the publishing connection's publisher.
        topology: the names.
        store: where the names of work queues are kept.
        flights: what is out.
        rooms: the windows, which say how many tasks travel together.
        give_back: applies reports (the collector's): of leases that reached nobody.
        suspect: given the leases that a worker which is gone may have had.
        gone: told the worker whose direct queue is missing.
        telemetry: where `Dispatched` goes.
        max_queues: how many work queues may exist.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        topology: Topology,
        store: Store,
        flights: Flights,
        rooms: Rooms,
        *,
        give_back: Callable[[Sequence[Report]], Awaitable[object]],
        suspect: Callable[[Iterable[str]], None],
        gone: Callable[[str], None],
        telemetry: Telemetry,
        max_queues: int,
        clock: Callable[[], float] = steady,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._topology = topology
        self._store = store
        self._flights = flights
        self._rooms = rooms
        self._give_back = give_back
        self._suspect = suspect
        self._gone = gone
        self._telemetry = telemetry
        self._max_queues = max_queues
        self._clock = clock
        self._queues: set[str] = set()
        self._stored: set[str] = set()
        self._declared: set[str] = set()
        self._declaring = asyncio.Lock()
        self._publishing: set[asyncio.Task[None]] = set()
        self._started = False

    async def start(self) -> None:
        """Read which queues there are."""
        if not self._started:
            self._started = True
            self._queues |= await self._store.run(operations.known_queues)
            self._connection.on_connected(self._forget_declared)

    async def drain(self) -> None:
        """Wait for the confirms that are awaited, and note them."""
        if self._publishing:
            await asyncio.wait(self._publishing)
        await self._store.run(operations.write_mark, self._flights.confirmed_up_to)

    async def stop(self) -> None:
        """Stop at once; what is not confirmed is published again on the next start."""
        for task in self._publishing:
            task.cancel()
        if self._publishing:
            await asyncio.wait(self._publishing)

    def knows(self, queue: str) -> bool:
        """Whether there ever was a task for `queue`."""
        return queue in self._queues

    def admits(self, queue: str) -> bool:
        """Whether `queue` is known or one more may be made."""
        if queue not in self._queues:
            if len(self._queues) >= self._max_queues:
                return False
            self._queues.add(queue)
        return True

    def send(self, claimed: Sequence[ClaimedTask], *, launched: bool = False) -> None:
        """Publish committed dispatches, in bundles that are in flight together.

        Args:
            claimed: the dispatches.
            launched: they are counted as out already.
        """
        if not claimed:
            return
        now = self._clock()
        if not launched:
            self._flights.launch(claimed, now)
        limits = {queue: self._rooms.window(queue, now).bundle for queue in {task.queue for task in claimed}}
        for bundle in pack(claimed, limits):
            self._start_publishing(bundle)

    async def offer(self, queues: Sequence[str]) -> None:
        """Make the work queues that live workers serve, so that they can consume before the first task comes."""
        for queue in queues:
            if queue not in self._declared and self.admits(queue):
                try:
                    await self._ensure(queue)
                except (BrokerError, StoreError) as error:
                    log.warning("cannot declare a work queue", extra={"queue": queue, "reason": str(error)})

    def _start_publishing(self, bundle: list[ClaimedTask]) -> None:
        task = asyncio.create_task(self._publish(bundle), name="publish a bundle")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, bundle: list[ClaimedTask]) -> None:
        queue, worker = bundle[0].queue, bundle[0].worker
        failures = 0
        while bundle:
            try:
                await self._publish_once(bundle)
                break
            except (BrokerError, StoreError, TimeoutError) as error:
                if isinstance(error, PublishRefused) and error.unroutable:
                    if worker:
                        await self._return(worker, bundle)
                        return
                    self._declared.discard(queue)
                    await asyncio.sleep(REST)
                log.log(
                    logging.WARNING if failures == 0 else logging.DEBUG,
                    "a bundle is not confirmed, publishing it again",
                    extra={"queue": queue, "tasks": len(bundle), "reason": str(error)},
                )
            except Exception:
                # A fault of ours: it must not strand the bundle, nor one bad task its neighbours.
                log.exception("a bundle cannot be published", extra={"queue": queue, "tasks": len(bundle)})
                if len(bundle) > 1:
                    for task in bundle:
                        self._start_publishing([task])
                    return
            await asyncio.sleep(min(LONGEST_RETRY, reconnect_wait(failures)))
            await self._publisher.ready()
            failures += 1
            bundle = [task for task in bundle if self._flights.copy(task.assignment.lease)]
        if not bundle:
            return
        self._flights.confirm(task.assignment.lease for task in bundle)
        await reached("dispatcher.after_confirm")
        now = time.time()
        suspects = sum(task.assignment.isolation is not Isolation.NONE for task in bundle)
        self._telemetry.emit(
            Dispatched(queue, len(bundle), suspects, [max(0.0, now - task.submitted_at) for task in bundle])
        )

    async def _publish_once(self, bundle: list[ClaimedTask]) -> None:
        queue, worker = bundle[0].queue, bundle[0].worker
        if worker:
            exchange, key = "", self._topology.direct_queue(worker).name
        else:
            await self._ensure(queue)
            exchange, key = self._topology.work_exchange.name, queue
        await reached("dispatcher.before_publish")
        number = min(task.number for task in bundle)
        message = Bundle(queue, [task.assignment for task in bundle], number, bundle[0].express)
        # What waits in a direct queue ends with it, so writing it to disk would be for nothing.
        await self._publisher.publish(exchange, key, message, priority=bundle[0].priority, persistent=not worker)
        await reached("dispatcher.after_publish")

    async def _return(self, worker: str, bundle: Sequence[ClaimedTask]) -> None:
        """The direct queue of `worker` is missing: what it was to have goes to another."""
        log.warning("a worker is gone before its tasks came", extra={"worker": worker, "tasks": len(bundle)})
        self._gone(worker)
        flights = self._flights.by_lease
        out = [task for task in bundle if task.assignment.lease in flights]
        sure = [task for task in out if not flights[task.assignment.lease].copied]
        copied = [task.assignment.lease for task in out if flights[task.assignment.lease].copied]
        try:
            if sure:
                reports = [Report(task.assignment.id, Returned(task.assignment.lease), worker) for task in sure]
                await self._give_back(reports)
        except StoreError as error:
            log.warning("tasks wait for the store to be given back", extra={"reason": str(error)})
            copied = [task.assignment.lease for task in out]
        self._flights.confirm(copied)
        self._suspect(copied)

    async def _ensure(self, queue: str) -> None:
        if queue in self._declared:
            return
        async with self._declaring:
            if queue not in self._declared:
                if queue not in self._stored:
                    # Before it is made: `max_queues` counts what is there after a restart, too.
                    await self._store.run(operations.add_queue, queue)
                    self._stored.add(queue)
                await declare(self._connection, (), (self._topology.work_queue(queue),))
                self._declared.add(queue)
                self._queues.add(queue)

    async def _forget_declared(self) -> None:
        # The broker may have come back without its data.
        self._declared.clear()

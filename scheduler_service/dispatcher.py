"""Dispatcher: publishes by priority, then store order, while the windows have room.

The lease is committed before the publish. From there on the dispatch is *out*: published until the broker confirms it,
always with the same lease, because a publish that failed or timed out may have arrived all the same. Publishes are in
flight together and each has its own outcome. The store's mark says up to which dispatch the broker has confirmed; on
start, what lies above it is published again::

    reserve room -> commit (state, lease, number) -> publish ... confirm -> the mark moves up
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from common.background import Background, Report
from common.backoff import reconnect_wait
from common.broker import REST, Connection, Publisher, declare
from common.clocks import steady
from common.errors import BrokerError, PublishRefused, StoreError
from common.failpoints import reached
from common.states import Rules
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Bundle, Isolation
from scheduler_service import operations
from scheduler_service.bundles import pack
from scheduler_service.events import Dispatched
from scheduler_service.fleet.flights import Flights
from scheduler_service.operations import Ended
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.store import Store
from scheduler_service.storage.tasks import Placement

log = logging.getLogger(__name__)

LONGEST_RETRY = 5.0
"""Seconds between two tries at most to publish a bundle."""
IDLE = 0.5
"""Seconds without work after which the mark is written by itself."""
CLAIM = 1000
"""Tasks of one queue claimed in one transaction at most."""


class Dispatcher:
    """Sends tasks to the work queues.

    Args:
        connection: the connection on which queues are declared.
        publisher: the publishing connection's publisher.
        topology: the names.
        store: where the backlog is.
        flights: what is out, and the windows.
        rules: the limits of the transition function.
        ended: given tasks whose turn came after their time.
        telemetry: where `Dispatched` goes.
        max_queues: how many work queues may exist.
        report: told when the loop dies.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        topology: Topology,
        store: Store,
        flights: Flights,
        rules: Rules,
        *,
        ended: Callable[[Sequence[Ended]], None],
        telemetry: Telemetry,
        max_queues: int,
        report: Report,
        clock: Callable[[], float] = steady,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._topology = topology
        self._store = store
        self._flights = flights
        self._rules = rules
        self._ended = ended
        self._telemetry = telemetry
        self._max_queues = max_queues
        self._clock = clock
        self._backlog: dict[str, int] = {}
        self._queues: set[str] = set()
        self._stored: set[str] = set()
        self._declared: set[str] = set()
        self._declaring = asyncio.Lock()
        self._wake = asyncio.Event()
        self._doubtful = False
        self._mark_at_rest = 0
        self._publishing: set[asyncio.Task[None]] = set()
        self._loop = Background("dispatch", self._run, report)

    @property
    def backlog(self) -> dict[str, int]:
        """Queued tasks by queue, as far as known; exact after each claim that found fewer than it wanted."""
        return self._backlog

    @property
    def mark(self) -> int:
        """Up to which dispatch the broker has confirmed."""
        return self._flights.confirmed_up_to

    @property
    def in_doubt(self) -> bool:
        """Whether something may be out in the store of which nothing is known here yet."""
        return self._doubtful

    async def start(self) -> None:
        """Read what is out and what is queued; publish again what the broker may not have; start the loop."""
        if self._loop.running:
            return
        outset = await self._store.run(operations.outset, time.time())
        self._backlog = dict(outset.backlog)
        self._queues |= await self._store.run(operations.known_queues)
        self._flights.start_from(outset.confirmed)
        unsure = self._flights.adopt(outset.dispatched, outset.confirmed, self._clock())
        if outset.dispatched:
            log.info("tasks were out", extra={"count": len(outset.dispatched), "published_again": len(unsure)})
        self._connection.on_connected(self._forget_declared)
        self._loop.start()
        self.send(unsure, launched=True)
        self.wake()

    async def drain(self) -> None:
        """Dispatch no more; wait for the confirms that are awaited."""
        await self._loop.stop()
        if self._publishing:
            await asyncio.wait(self._publishing)
        await self._store.run(operations.write_mark, self.mark)

    async def stop(self) -> None:
        """Stop at once; what is not confirmed is published again on the next start."""
        await self._loop.stop()
        for task in self._publishing:
            task.cancel()
        if self._publishing:
            await asyncio.wait(self._publishing)

    def admits(self, queue: str) -> bool:
        """Whether `queue` is known or one more may be made."""
        if queue not in self._queues:
            if len(self._queues) >= self._max_queues:
                return False
            self._queues.add(queue)
        return True

    def place(self, queue: str, count: int) -> list[Placement]:
        """Room for up to `count` tasks that may go at once: none while others of the queue wait in the store."""
        if self._doubtful or self._backlog.get(queue):
            return []
        count = min(count, self._flights.room(queue, self._clock()))
        return self._flights.reserve(queue, count) if count > 0 else []

    def unplace(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room that was not used."""
        self._flights.release(queue, placements)

    def queued(self, queue: str, count: int) -> None:
        """`count` more tasks of `queue` are in the store; fewer when it is negative."""
        left = self._backlog.get(queue, 0) + count
        if left > 0:
            self._backlog[queue] = left
        else:
            self._backlog.pop(queue, None)
        self._wake.set()

    def doubt(self, queue: str, placements: Sequence[Placement]) -> None:
        """Their transaction may or may not have been committed: look in the store for what it dispatched."""
        self._flights.doubt(queue, placements)
        self.recount()

    def recount(self) -> None:
        """A transaction may or may not have been committed: look in the store for what is queued and out."""
        self._doubtful = True
        self._wake.set()

    def wake(self) -> None:
        """Room may have opened: workers came, tasks finished."""
        self._wake.set()

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
        limits = {queue: self._flights.window(queue, now).bundle for queue in {task.queue for task in claimed}}
        for bundle in pack(claimed, limits):
            self._start_publishing(bundle)

    def _start_publishing(self, bundle: list[ClaimedTask]) -> None:
        task = asyncio.create_task(self._publish(bundle), name="publish a bundle")
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _run(self) -> None:
        failures = 0
        while True:
            woken = await self._woken()
            try:
                if not woken:
                    await self._write_mark()
                    continue
                if self._doubtful:
                    await self._find_strays()
                while await self._claim():
                    pass
                failures = 0
            except StoreError as error:
                if failures == 0:
                    log.warning("dispatch waits for the store", extra={"reason": str(error)})
                await asyncio.sleep(min(LONGEST_RETRY, reconnect_wait(failures)))
                failures += 1

    async def _woken(self) -> bool:
        """Wait for something to do; False when nothing has come for a while."""
        try:
            async with asyncio.timeout(IDLE):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _write_mark(self) -> None:
        # Confirms after the last transaction would be forgotten by a kill, and their bundles published again.
        if self.mark != self._mark_at_rest:
            mark = self.mark
            await self._store.run(operations.write_mark, mark)
            self._mark_at_rest = mark

    async def _claim(self) -> bool:
        """Claim once for every queue that has both tasks and room; False when there was nothing to do."""
        now = self._clock()
        wanted = {}
        for queue, waiting in self._backlog.items():
            room = min(self._flights.room(queue, now), CLAIM, waiting)
            if room > 0:
                wanted[queue] = self._flights.reserve(queue, room)
        if not wanted:
            return False
        try:
            claimed = await self._store.run(operations.claim, wanted, self._rules, self.mark, time.time())
        except BaseException:
            for queue, placements in wanted.items():
                self.doubt(queue, placements)
            raise
        for queue, placements in wanted.items():
            taken, ended = claimed[queue].tasks, claimed[queue].ended
            self._flights.release(queue, placements[len(taken) :])
            # Answers of the store come in the order of its transactions, so each change is counted once, in order;
            # and when fewer were found than wanted, none is left.
            found = len(taken) + len(ended)
            self.queued(queue, -found if found == len(placements) else -self._backlog.get(queue, 0))
            self.send(taken)
            self._ended(ended)
        return True

    async def _find_strays(self) -> None:
        doubts = self._flights.doubts()
        outset = await self._store.run(operations.outset, time.time())
        # Answers of the store come in the order of its transactions: whatever was committed before is counted by now.
        self._flights.retain(outset.dispatched, self._clock())
        strays = self._flights.adopt(outset.dispatched, -1, self._clock())
        self._flights.settle_doubts(doubts)
        self._doubtful = bool(self._flights.doubts())
        self._backlog = dict(outset.backlog)
        self.send(strays, launched=True)

    async def _publish(self, bundle: list[ClaimedTask]) -> None:
        queue = bundle[0].queue
        failures = 0
        while bundle:
            try:
                await self._ensure(queue)
                await reached("dispatcher.before_publish")
                await self._publisher.publish(
                    self._topology.work_exchange.name,
                    queue,
                    Bundle(queue, [task.assignment for task in bundle]),
                    priority=bundle[0].priority,
                )
                await reached("dispatcher.after_publish")
                break
            except (BrokerError, StoreError, TimeoutError) as error:
                if isinstance(error, PublishRefused) and error.unroutable:
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

    async def offer(self, queues: Sequence[str]) -> None:
        """Make the work queues that live workers serve, so that they can consume before the first task comes."""
        for queue in queues:
            if queue not in self._declared and self.admits(queue):
                try:
                    await self._ensure(queue)
                except (BrokerError, StoreError) as error:
                    log.warning("cannot declare a work queue", extra={"queue": queue, "reason": str(error)})

    async def _forget_declared(self) -> None:
        # The broker may have come back without its data.
        self._declared.clear()

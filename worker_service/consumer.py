"""One queue: deliveries in, attempts out.

A redelivered message is never run. The broker had given it to somebody before, who may have died of it or may still be
running it; its leases go back and the scheduler, which hears every worker's beats, decides. A lease that this worker
holds, or answered not long ago, is a second copy (the scheduler publishes again what it does not know to be confirmed)
and is not run either. Neither is what was dispatched before this worker could hear (see `briefing`). What cannot be
decoded goes to the dead-letter exchange, task by task where that is possible.

The prefetch counts bundles, and is the number of slots (but 2 at least). A bundle of long tasks holds one task, so the
broker hands over as many as can run, the next one waits in the queue for the first free slot of *any* worker, and none
is returned as busy. A bundle of short ones holds many, so there is always more here than the slots can take while
replies are confirmed; with a single slot that needs a second bundle.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from common.broker import Connection, Consumer, Delivery
from common.errors import WireError
from common.telemetry import Telemetry
from common.topology import Queue
from common.wire import Assignment, Bundle, ReturnReason, check_type, decode
from worker_service.attempts import Attempt, DeliveredBundle, Leases
from worker_service.dead_letters import Bury
from worker_service.events import Received, Undecodable
from worker_service.replier import Answer
from worker_service.results import returned

MAX_BUNDLE_BYTES: Final = 8 * 1024 * 1024
"""Refused without decoding above this size; the scheduler's bundles have 256 KiB, or one large task."""

_log = logging.getLogger(__name__)


class RawBundle(Struct):
    """A bundle whose tasks are decoded one by one, to find the bad one."""

    queue: str
    tasks: list[Raw]
    number: int = 0
    express: bool = False


class LeaseOnly(Struct):
    """What it takes to say that an assignment cannot be decoded."""

    id: str
    lease: str
    attempt: int


def prefetch_for(slots: int) -> int:
    """How many bundles to take at a time; see the module's docstring."""
    return max(2, slots)


class WorkConsumer:
    """Consumes one work queue.

    Args:
        connection: the consuming connection.
        name: the queue's name in Warren; None when each bundle says which one it is of.
        queue: the work queue behind it, declared when it is missing and the broker's permissions allow it.
        slots: how many tasks this worker runs at a time.
        more: how many bundles it takes beyond those that slots are for.
        leases: where the accepted leases are listed.
        ready: awaited before each subscription.
        precedes: whether a dispatch, by its number, was before this worker could hear.
        congested: whether so many outcomes are unanswered that nothing more may be taken now.
        accept: takes the attempts.
        answer: takes the outcomes of what is not run.
        bury: takes what cannot be decoded.
        telemetry: where `Received` and `Undecodable` go.
    """

    def __init__(
        self,
        connection: Connection,
        name: str | None,
        queue: Queue,
        *,
        slots: int,
        more: int = 0,
        leases: Leases,
        ready: Callable[[], Awaitable[None]],
        precedes: Callable[[int], bool],
        congested: Callable[[], bool],
        accept: Callable[[Sequence[Attempt]], None],
        answer: Answer,
        bury: Bury,
        telemetry: Telemetry,
    ) -> None:
        self.name = queue.name if name is None else name
        self._fixed_name = name
        self._more = more
        self._leases = leases
        self._precedes = precedes
        self._congested = congested
        self._accept = accept
        self._answer = answer
        self._bury = bury
        self._telemetry = telemetry
        self._consumer = Consumer(
            connection, queue, self._arrived, prefetch=prefetch_for(slots) + more, declare=True, when=ready
        )
        self._backlog: deque[Delivery] = deque()
        self._settling: set[asyncio.Task[Any]] = set()

    @property
    def consuming(self) -> bool:
        """True while the broker knows this consumer."""
        return self._consumer.consuming

    @property
    def fault(self) -> str:
        """See `Consumer.fault`."""
        return self._consumer.fault

    async def start(self) -> None:
        """Start consuming; returns at once."""
        await self._consumer.start()

    def renew(self) -> None:
        """Subscribe anew, soon: this consumer may be deaf without knowing it."""
        self._soon(self._consumer.renew())

    def resize(self, slots: int) -> None:
        """Take what fits this many slots, soon."""
        self._soon(self._consumer.resize(prefetch_for(slots) + self._more))

    async def pause(self) -> None:
        """Take nothing more, until `resume`."""
        await self._consumer.drain()

    async def resume(self) -> None:
        """Take again."""
        await self._consumer.start()

    async def drain(self) -> None:
        """Take no more."""
        await self._consumer.drain()

    async def stop(self) -> None:
        """Close the channel: what is unacked goes back to the queue."""
        await self._consumer.stop()
        self._backlog.clear()

    def take(self) -> None:
        """Unpack what has arrived, but nothing while the worker is congested; call it when that is over.

        After each reconnect the broker hands over a new prefetch, while the outcomes of the one before may not be
        confirmed yet: without this bound they would pile up as long as replies stall.
        """
        while self._backlog and not self._congested():
            delivery = self._backlog.popleft()
            if delivery.subscription.alive:
                self._unpack(delivery)

    def _arrived(self, delivery: Delivery) -> None:
        self._backlog = deque(each for each in self._backlog if each.subscription.alive)
        self._backlog.append(delivery)
        self.take()

    def _unpack(self, delivery: Delivery) -> None:
        bundle = DeliveredBundle(delivery, self.name)
        try:
            assignments = self._decode(delivery, bundle)
        except WireError:
            assignments = self._decode_one_by_one(delivery, bundle)
        self._telemetry.emit(Received(bundle.queue, len(assignments), delivery.redelivered))
        now = asyncio.get_running_loop().time()
        attempts = [Attempt(assignment, bundle, now) for assignment in assignments]
        if delivery.redelivered:
            bundle.open += len(attempts)
            self._answer([(each, returned(each.assignment, ReturnReason.REDELIVERED)) for each in attempts])
        else:
            fresh = []
            for attempt in attempts:
                if not self._leases.knows(attempt.assignment.lease):
                    self._leases.hold(attempt)
                    fresh.append(attempt)
            if len(fresh) < len(attempts):
                _log.info("second copies of leases are not run", extra={"count": len(attempts) - len(fresh)})
            bundle.open += len(fresh)
            if self._precedes(bundle.number):
                self._answer([(each, returned(each.assignment, ReturnReason.AWAY)) for each in fresh])
            else:
                self._accept(fresh)
        if not bundle.open:
            self._soon(bundle.delivery.ack())

    def _soon(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _decode(self, delivery: Delivery, bundle: DeliveredBundle) -> list[Assignment]:
        check_type(Bundle, delivery.type)
        if len(delivery.body) > MAX_BUNDLE_BYTES:
            raise WireError(f"the bundle has {len(delivery.body)} bytes, more than {MAX_BUNDLE_BYTES}")
        message = decode(Bundle, delivery.body)
        bundle.number, bundle.express = message.number, message.express
        if self._fixed_name is None:
            bundle.queue = message.queue
        return message.tasks

    def _decode_one_by_one(self, delivery: Delivery, bundle: DeliveredBundle) -> list[Assignment]:
        """The good assignments of a bundle that does not decode as a whole; the others are answered or buried."""
        try:
            check_type(Bundle, delivery.type)
            if len(delivery.body) > MAX_BUNDLE_BYTES:
                raise WireError(f"the bundle has {len(delivery.body)} bytes, more than {MAX_BUNDLE_BYTES}")
            message = decode(RawBundle, delivery.body)
        except WireError as error:
            self._give_up(bundle, delivery.body, delivery.type, str(error))
            return []
        bundle.number, bundle.express = message.number, message.express
        if self._fixed_name is None:
            bundle.queue = message.queue
        good: list[Assignment] = []
        for raw in message.tasks:
            try:
                good.append(decode(Assignment, raw))
            except WireError as error:
                self._undecodable(bundle, raw, delivery.type, str(error))
        return good

    def _undecodable(self, bundle: DeliveredBundle, raw: Raw, message_type: str | None, reason: str) -> None:
        try:
            known = decode(LeaseOnly, raw)
        except WireError:
            body = b'{"queue":%s,"tasks":[%s]}' % (msgspec.json.encode(bundle.queue), bytes(raw))
            self._give_up(bundle, body, message_type, reason)
            return
        _log.warning("an assignment cannot be decoded", extra={"task_id": known.id, "reason": reason})
        self._telemetry.emit(Undecodable(bundle.queue))
        assignment = Assignment(known.id, "", known.lease, known.attempt)
        bundle.open += 1
        attempt = Attempt(assignment, bundle, 0.0)
        self._answer([(attempt, returned(assignment, ReturnReason.UNDECODABLE))])

    def _give_up(self, bundle: DeliveredBundle, body: bytes, message_type: str | None, reason: str) -> None:
        _log.warning("a work message cannot be decoded", extra={"queue": bundle.queue, "reason": reason})
        self._telemetry.emit(Undecodable(bundle.queue))
        bundle.open += 1
        self._bury(bundle, body, message_type, reason)

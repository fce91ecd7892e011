"""Answerer: answers what clients ask about their tasks. Only the owner is answered; to others a task is unknown."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.broker import BatchConsumer, Connection, Delivery, Publisher
from common.errors import BrokerError, WireError
from common.options import TaskOptions
from common.questions import Ask, AskKind, Statuses, TaskStatus
from common.states import State
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Told, check_type, decode
from scheduler_service import operations
from scheduler_service.events import Parked
from scheduler_service.fleet.directory import Directory
from scheduler_service.operations import Found
from scheduler_service.reception import Refusal, check_reply_to, parked_message
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

PREFETCH = 100
TIMEOUT = 5.0
"""Seconds to wait for the confirm of an answer; a client that is not answered asks again."""

TellStored = Callable[[Mapping[str, Sequence[str]]], Awaitable[None]]


class Answerer:
    """The consumer of the request queue.

    Args:
        connection: the consuming connection.
        publisher: the publishing connection's publisher.
        topology: the names.
        store: where tasks are.
        directory: the live workers, for what the store does not know.
        tell_stored: tells stored results by reply queue.
        telemetry: where `Parked` goes.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        topology: Topology,
        store: Store,
        directory: Directory,
        *,
        tell_stored: TellStored,
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._publisher = publisher
        self._topology = topology
        self._store = store
        self._directory = directory
        self._tell_stored = tell_stored
        self.consumer = BatchConsumer(connection, topology.request, self._handle, prefetch=PREFETCH)

    async def start(self) -> None:
        """Start answering."""
        await self.consumer.start()

    async def drain(self) -> None:
        """Take no more questions."""
        await self.consumer.drain()

    async def stop(self) -> None:
        """Stop at once."""
        await self.consumer.stop()

    async def _handle(self, deliveries: list[Delivery]) -> None:
        refused: list[ParkedMessage] = []
        for delivery in deliveries:
            try:
                check_type(Ask, delivery.type)
                ask = decode(Ask, delivery.body)
                user, reply_to = delivery.user_id or "", delivery.reply_to or ""
                check_reply_to(reply_to, user, self._topology)
            except WireError as error:
                refused.append(parked_message("request", delivery, "undecodable", str(error)))
                continue
            except Refusal as refusal:
                refused.append(parked_message("request", delivery, refusal.reason, str(refusal)))
                continue
            if ask.kind is AskKind.WAIT:
                await self._answer_wait(ask, user, reply_to, delivery.correlation_id)
            else:
                await self._answer_status(ask, user, reply_to, delivery.correlation_id)
        if refused:
            await self._store.run(operations.park, refused, time.time())
            for reason, count in Counter(message.reason for message in refused).items():
                self._telemetry.emit(Parked("request", reason, count))

    async def _answer_wait(self, ask: Ask, user: str, reply_to: str, correlation_id: str | None) -> None:
        terminal, unknown = await self._store.run(operations.wait_for, ask.ids, user, reply_to)
        await self._tell_stored({reply_to: terminal})
        await self._publish(reply_to, Told([], unknown), correlation_id)

    async def _answer_status(self, ask: Ask, user: str, reply_to: str, correlation_id: str | None) -> None:
        found, unknown = await self._store.run(operations.look_up, ask.ids, user)
        await self._publish(reply_to, Statuses([self._describe(each) for each in found], unknown), correlation_id)

    def _describe(self, found: Found) -> TaskStatus:
        stored = found.stored
        task = stored.task
        state = task.state.value
        worker = stored.worker or ""
        note = ""
        if task.state is State.DISPATCHED:
            running = self._directory.running_at(task.lease)
            if running is not None:
                state, worker = "running", running
            else:
                note = self._directory.why_waiting(stored.queue, stored.name)
        elif task.state in (State.QUEUED, State.SCHEDULED):
            note = self._directory.why_waiting(stored.queue, stored.name)
        status = TaskStatus(
            found.id,
            state,
            stored.name,
            stored.queue,
            stored.priority,
            task.attempt,
            worker,
            stored.submitted_at,
            stored.dispatched_at or 0.0,
            stored.finished_at or 0.0,
            note,
            task.error,
            task.due_at or 0.0,
            task.expires_at or 0.0,
            task.failures,
            attempts=found.attempts,
            alias_of=stored.id if found.is_alias else "",
        )
        if stored.options is not None:
            options = decode(TaskOptions, stored.options.encode())
            status.key = options.key or ""
            status.labels = options.labels or {}
            status.parent = options.parent or ""
            status.replay_of = options.replay_of or ""
        return status

    async def _publish(self, reply_to: str, message: Told | Statuses, correlation_id: str | None) -> None:
        try:
            await self._publisher.publish(
                "", reply_to, message, persistent=False, correlation_id=correlation_id, timeout=TIMEOUT
            )
        except BrokerError as error:
            log.debug("a client was not answered", extra={"reply_to": reply_to, "reason": str(error)})

"""Answerer: takes what clients ask, and has it answered by the part whose kind of question it is.

Only the owner is answered about a task; to others it does not exist, except to operators.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from common.broker import BatchConsumer, Connection, Delivery, Publisher
from common.errors import BrokerError, StoreRefused, StoreUnavailable, WireError
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Message
from scheduler_service.asking import Answer, Asker
from scheduler_service.parking import Parking
from scheduler_service.reception import Refusal, check_reply_to, parked_message
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

PREFETCH = 100
TIMEOUT = 5.0
"""Seconds to wait for the confirm of an answer; a client that is not answered asks again."""


class Answerer:
    """The consumer of the request queue.

    Args:
        connection: the consuming connection.
        publisher: the publishing connection's publisher.
        topology: the names.
        store: where questions that cannot be read are parked.
        answers: who answers, by the AMQP type of the question.
        operators: the broker users who may see everybody's tasks.
        telemetry: where `Parked` goes.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        topology: Topology,
        store: Store,
        *,
        answers: Mapping[str, Answer],
        operators: Collection[str],
        telemetry: Telemetry,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._topology = topology
        self._answers = answers
        self._operators = frozenset(operators)
        self._parking = Parking("request", store, telemetry)
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
                await self._answer(delivery)
            except (WireError, StoreRefused, ValueError, OverflowError) as error:
                # Also a value that decodes and that the database refuses: it would come back for ever.
                refused.append(parked_message("request", delivery, "undecodable", str(error)))
            except Refusal as refusal:
                refused.append(parked_message("request", delivery, refusal.reason, str(refusal)))
            except (StoreUnavailable, BrokerError):
                raise
            except Exception:
                # A fault of ours: the asker asks again, and those who ask beside it are answered.
                log.exception("a question cannot be answered", extra={"type": delivery.type})
        await self._parking.park(refused)

    async def _answer(self, delivery: Delivery) -> None:
        answer = self._answers.get(delivery.type or "")
        if answer is None:
            known = ", ".join(sorted(self._answers))
            raise WireError(f"the message's type is {delivery.type!r}, expected one of {known}")
        user, reply_to = delivery.user_id or "", delivery.reply_to or ""
        check_reply_to(reply_to, user, self._topology)
        operator = user in self._operators
        asker = Asker(user, reply_to, operator, operator or user == self._connection.user)
        message = await answer(asker, delivery.body)
        await self._publish(reply_to, message, delivery.correlation_id)

    async def _publish(self, reply_to: str, message: Message, correlation_id: str | None) -> None:
        try:
            await self._publisher.publish(
                "", reply_to, message, persistent=False, correlation_id=correlation_id, timeout=TIMEOUT
            )
        except BrokerError as error:
            log.debug("a client was not answered", extra={"reply_to": reply_to, "reason": str(error)})

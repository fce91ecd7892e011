"""What the async client does on the broker, over aio-pika: it hears results, publishes submissions and asks.

Only this part of the client imports aio-pika; `common.client.flow` opens it on first use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from common.background import Background
from common.backoff import reconnect_wait
from common.broker import Connection, Delivery, Publisher, Subscription, declare
from common.client.core import ClientCore
from common.client.packs import Pack
from common.errors import BrokerError, BrokerRefused, ConnectionLost, PublishRefused, PublishUnknown
from common.ids import new_nonce
from common.settings import BrokerSettings
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Message, Submission

_SHORTEST: Final = 0.01
"""Seconds that a publish is given at least, however near its deadline is."""

_NOT_FOUND: Final = 404

log = logging.getLogger(__name__)


class AsyncSession:
    """The connection of one async client, for the loop that runs.

    Args:
        settings: the broker and the timeouts.
        core: what the client knows; it is told what arrives and what became of what was sent.
        rouse: called when there may be something new to do.
    """

    def __init__(self, settings: BrokerSettings, core: ClientCore, rouse: Callable[[], None]) -> None:
        self._core = core
        self._rouse = rouse
        self._topology = Topology(settings.namespace)
        telemetry = Telemetry()
        self._connection = Connection.of(
            settings, name=f"{settings.namespace}.client.{os.getpid()}", label="client", telemetry=telemetry
        )
        # Two channels: an error about a question must not make the outcome of submissions unknown.
        self._submissions = Publisher(self._connection, timeout=settings.publish_timeout, telemetry=telemetry)
        self._questions = Publisher(self._connection, timeout=settings.publish_timeout, telemetry=telemetry)
        self._listener = Background("hear results", self._listen, self._crashed)
        self._sending: set[asyncio.Task[None]] = set()
        self._reply_to = ""
        self._declaring = asyncio.Lock()

    @property
    def can_submit(self) -> bool:
        """Whether submissions can be sent now: it is connected, and is not busy with declaring what was missing."""
        return self._core.is_connected and not self._declaring.locked()

    @property
    def failure(self) -> str:
        """Why there is no connection; empty while there is one, and while the first attempt goes on."""
        return self._connection.failure

    async def start(self) -> None:
        """Begin to connect, and to listen for as long as it is not stopped."""
        await self._connection.start()
        self._listener.start()

    async def stop(self) -> None:
        """Close the connection. What is being sent is given up. May be called again."""
        await self._listener.stop()
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        await self._connection.stop()

    def submit(self, pack: Pack) -> None:
        """Publish a pack in the background; the core's outbox is told how it ends."""
        self._spawn(self._submit(pack, pack.tries), "submit")

    def ask(self, question: str, ask: Message) -> None:
        """Publish a question in the background. Nobody is told when it fails: it is asked again when it is due."""
        self._spawn(self._ask(question, ask), "ask")

    def _crashed(self, name: str, error: BaseException) -> None:
        log.critical("a client has to close itself", extra={"task_name": name}, exc_info=error)
        self._core.close()

    async def _listen(self) -> None:
        failures = 0
        while True:
            await self._connection.ready()
            queue = self._topology.client_queue(self._connection.user, new_nonce())
            try:
                subscription = await Subscription.open(
                    self._connection, queue, self._arrived, prefetch=0, no_ack=True, declare=True
                )
            except BrokerError as error:
                self._core.disconnected(str(error))
                await asyncio.sleep(reconnect_wait(failures))
                failures += 1
                continue
            failures = 0
            self._reply_to = queue.name
            self._core.connected(time.monotonic())
            self._rouse()
            await subscription.ended.wait()
            self._core.disconnected(subscription.reason)
            self._rouse()
            await subscription.close()

    def _arrived(self, delivery: Delivery) -> None:
        self._core.arrived(delivery.type, delivery.body, delivery.correlation_id, time.monotonic())
        if delivery.correlation_id is not None:
            self._rouse()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(task.get_name(), error)

    async def _submit(self, pack: Pack, number: int) -> None:
        outbox = self._core.outbox
        try:
            await self._submissions.publish(
                self._topology.submit_exchange.name,
                "submit",
                pack.body,
                type=Submission.TYPE,
                reply_to=self._reply_to,
                user_id=self._connection.user,
                timeout=max(_SHORTEST, pack.deadline - time.monotonic()),
            )
        except (PublishRefused, BrokerRefused) as error:
            if outbox.is_in_flight(pack) and pack.tries == number:
                await self._refused(pack, error)
        except PublishUnknown:
            pass  # its deadline has come: `expire` settles it
        except ConnectionLost:
            if pack.tries == number:
                outbox.lost(pack)
            await asyncio.sleep(reconnect_wait(0))
        else:
            outbox.confirmed(pack)
        self._rouse()

    async def _refused(self, pack: Pack, error: PublishRefused | BrokerRefused) -> None:
        outbox = self._core.outbox
        if isinstance(error, PublishRefused):
            outbox.refused(pack, str(error))
        elif error.code != _NOT_FOUND:
            outbox.channel_closed(str(error))
        else:
            outbox.exchange_missing()
            await self._declare()

    async def _declare(self) -> None:
        """Declare the submit exchange and its queue, as a scheduler that was here before would have."""
        exchange = self._topology.submit_exchange
        try:
            async with self._declaring:
                await declare(self._connection, (exchange,), (self._topology.submit,))
        except BrokerRefused as error:
            self._core.outbox.refuse_all(
                f"the exchange {exchange.name!r} does not exist, since no scheduler has been started in this "
                f"namespace, and user {self._connection.user!r} may not declare it: {error}"
            )
        except BrokerError as error:
            log.info("the submit exchange could not be declared now", extra={"reason": str(error)})

    async def _ask(self, question: str, ask: Message) -> None:
        try:
            await self._questions.publish(
                self._topology.request_exchange.name,
                "request",
                ask,
                persistent=False,
                reply_to=self._reply_to,
                correlation_id=question,
                user_id=self._connection.user,
            )
        except BrokerError as error:
            log.debug("a question was not sent; it will be asked again", extra={"reason": str(error)})

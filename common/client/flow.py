"""The async client's background work: it stays connected, publishes what the core has, and feeds it what arrives."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Coroutine
from typing import Any, Final

from common.background import Background
from common.backoff import reconnect_wait
from common.broker import Connection, Delivery, Publisher, Subscription, declare
from common.client.core import ClientCore
from common.client.packs import Pack
from common.errors import (
    BrokerError,
    BrokerRefused,
    ClientClosed,
    ConnectionLost,
    PublishRefused,
    PublishUnknown,
)
from common.ids import new_nonce
from common.settings import BrokerSettings
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Message, Submission

_NOT_FOUND: Final = 404
_SHORTEST: Final = 0.01

log = logging.getLogger(__name__)


class Flow:
    """The connection of one async client. It belongs to the event loop in which it was first used.

    Args:
        settings: the broker and the timeouts.

    Attributes:
        core: what the client knows.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.core = ClientCore(settings.publish_timeout)
        self._settings = settings
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._roused = False
        self._reply_to = ""
        self._declaring = asyncio.Lock()

    async def use(self) -> ClientCore:
        """The core, to be used without awaiting anything before `rouse`. Starts to connect on first use.

        Raises:
            ClientClosed: the client is closed.
            RuntimeError: the client belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError("this client belongs to another event loop; make one for each loop")
            self._loop = loop
            await self._connection.start()
            self._listener.start()
        if self.core.closed:
            raise ClientClosed("the client is closed")
        return self.core

    def rouse(self) -> None:
        """Look at the core after the present step of the loop, so that calls that meet share messages."""
        if not self._roused and self._loop is not None:
            self._roused = True
            self._loop.call_soon(self._work)

    async def close(self) -> None:
        """Close the connection; callers that wait get `ClientClosed`. May be called again."""
        self.core.close()
        if self._timer is not None:
            self._timer.cancel()
        await self._listener.stop()
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        await self._connection.stop()

    def _crashed(self, name: str, error: BaseException) -> None:
        log.critical("a client has to close itself", extra={"task_name": name}, exc_info=error)
        self.core.close()

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
                self.core.disconnected(str(error))
                await asyncio.sleep(reconnect_wait(failures))
                failures += 1
                continue
            failures = 0
            self._reply_to = queue.name
            self.core.connected(time.monotonic())
            self.rouse()
            await subscription.ended.wait()
            self.core.disconnected(subscription.reason)
            self.rouse()
            await subscription.close()

    def _arrived(self, delivery: Delivery) -> None:
        self.core.arrived(delivery.type, delivery.body, delivery.correlation_id, time.monotonic())
        if delivery.correlation_id is not None:
            self.rouse()

    def _work(self) -> None:
        """Send what can be sent now, and come back when the next thing is due."""
        self._roused = False
        core, now = self.core, time.monotonic()
        if core.closed:
            return
        if not core.is_connected and self._connection.failure is not None:
            core.trouble = str(self._connection.failure)
        core.expire(now)
        if core.is_connected and not self._declaring.locked():
            for pack in core.outbox.take():
                self._spawn(self._submit(pack, pack.tries), "submit")
        for question, ask in core.asks(now):
            self._spawn(self._ask(question, ask), "ask")
        self._work_in(core.wake_at() - now)

    def _work_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds != math.inf and self._loop is not None:
            self._timer = self._loop.call_later(max(_SHORTEST, seconds), self._work)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crashed(task.get_name(), error)

    async def _submit(self, pack: Pack, number: int) -> None:
        outbox = self.core.outbox
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
        self.rouse()

    async def _refused(self, pack: Pack, error: PublishRefused | BrokerRefused) -> None:
        outbox = self.core.outbox
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
            self.core.outbox.refuse_all(
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

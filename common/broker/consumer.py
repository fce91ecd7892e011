"""Consumers that stay: they subscribe again whenever the broker, the network or a deleted queue ended them.

A consumer that the broker cancelled is the classic silent failure (connected, but deaf), so each one says by
`consuming` whether it really is, and readiness depends on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from common.backoff import reconnect_wait
from common.broker.connection import Connection
from common.broker.declare import restore
from common.broker.subscription import Delivery, Subscription
from common.errors import BrokerError, BrokerRefused, StoreUnavailable
from common.topology import Queue

log = logging.getLogger(__name__)

ACK_DELAY = 0.004
"""Seconds for which acks wait for others. An ack of a quorum queue is a write to the broker's log as a publish is, and
at once it would be in the way of the message that the handled batch has just caused."""
REST = 1.0
"""Seconds to wait after the broker has cancelled a consumer. When a deleted queue is declared again at once,
RabbitMQ 3.10 moves its consumers over without saying so, and forgets what it hands to them."""
LONGEST_RETRY = 5.0
"""Seconds between tries at most while a handler cannot settle a batch (database locked, broker away)."""
LONGEST_REST = 60.0
"""Seconds between two tries at most of a message that meets a fault of ours."""
_LATER: Final = (StoreUnavailable, BrokerError, MemoryError)
"""Nothing of a message is wrong: it is tried again for as long as it takes."""


class Consumer:
    """Keeps one subscription open and hands over each delivery as it comes.

    Args:
        connection: where.
        queue: what; or a function that makes a new exclusive queue for each connection, since the one of a
            connection that only this side knows to be dead stays locked for a while (405).
        on_delivery: called in the event loop for each message, in order; it must not block.
        prefetch: unsettled messages at a time; 0 is no limit.
        declare: declare and bind the queue when it is missing; when the broker refuses that (403), wait for it.
        no_ack: messages count as settled when they are sent.
        when: awaited before each subscription.
        on_consuming: called after each subscription.
        on_ended: called after the end of each.
    """

    def __init__(
        self,
        connection: Connection,
        queue: Queue | Callable[[], Queue],
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int,
        declare: bool = False,
        no_ack: bool = False,
        when: Callable[[], Awaitable[None]] | None = None,
        on_consuming: Callable[[], None] | None = None,
        on_ended: Callable[[], None] | None = None,
    ) -> None:
        self._when = when
        self._on_consuming = on_consuming
        self._on_ended = on_ended
        self._connection = connection
        self._next_queue = queue if callable(queue) else lambda: queue
        self._queue = self._next_queue()
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._declare = declare or self._queue.exclusive
        self._no_ack = no_ack
        self._subscription: Subscription | None = None
        self._task: asyncio.Task[None] | None = None
        self._refusal = ""

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._queue.name

    @property
    def fault(self) -> str:
        """Why it is not consuming, as far as the broker has said so; empty when it is."""
        return "" if self.consuming else f"not consuming {self.name}: {self._refusal}".removesuffix(": ")

    @property
    def consuming(self) -> bool:
        """True while the broker knows this consumer."""
        return self._subscription is not None and not self._subscription.ended.is_set()

    async def start(self) -> None:
        """Subscribe, and again after each end; returns at once."""
        if self._task is None:
            if self._subscription is not None:  # of before a drain: what it delivered may not be settled yet
                await self._subscription.close_when_settled()
            self._task = asyncio.create_task(self._stay(), name=f"consume {self.name}")

    async def resize(self, prefetch: int) -> None:
        """Take this many unsettled messages at a time from now on: a new subscription, since a running one keeps its.

        What the old one has delivered is not counted against the new prefetch.
        """
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            await self.renew()

    async def rebind(self) -> None:
        """Bind the queue again, if it is there: its exchange may have been deleted and made anew."""
        if self.consuming:
            await restore(self._connection, (), (self._queue,))

    async def renew(self) -> None:
        """Subscribe anew on a new channel; the old one stays until what it has delivered is settled.

        A queue that was deleted and made again under a consumer can leave it connected, consuming and deaf (seen on
        RabbitMQ 3.10.8 with quorum queues): what the broker hands to it goes nowhere.
        """
        if self._subscription is not None:
            await self._subscription.cancel()

    async def drain(self) -> None:
        """Take no more (basic.cancel); what has arrived can still be settled."""
        await self._end_task()
        if self._subscription is not None:
            await self._subscription.cancel()

    async def stop(self) -> None:
        """Drain, then close the channel; what is unsettled goes back to the queue."""
        await self.drain()
        if self._subscription is not None:
            await self._subscription.close()

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _stay(self) -> None:
        failures = 0
        while True:
            await self._connection.ready()
            if self._when is not None:
                await self._when()
            prefetch = self._prefetch
            try:
                subscription = await self._subscribe()
            except BrokerError as error:
                self._refusal = str(error)
                log.warning("cannot consume", extra={"queue": self.name, "reason": str(error)})
                await asyncio.sleep(min(1.0, reconnect_wait(failures)))
                failures += 1
                continue
            except Exception:
                # A fault of ours: without this loop the consumer would be connected and deaf.
                log.exception("subscribing failed", extra={"queue": self.name})
                await asyncio.sleep(min(1.0, reconnect_wait(failures)))
                failures += 1
                continue
            failures = 0
            self._refusal = ""
            self._subscription = subscription
            if self._on_consuming is not None:
                self._on_consuming()
            if prefetch != self._prefetch:
                await subscription.cancel()
            await subscription.ended.wait()
            if self._on_ended is not None:
                self._on_ended()
            log.warning("the consumer ended", extra={"queue": self.name, "reason": subscription.reason})
            await subscription.close_when_settled()
            if subscription.cancelled_by_broker:
                await asyncio.sleep(REST)
            self._queue = self._next_queue()

    async def _subscribe(self) -> Subscription:
        # An exclusive queue ends with its connection, so it is declared each time; a durable one only when missing.
        try:
            return await self._open(declare=self._queue.exclusive)
        except BrokerRefused as error:
            if error.code != 404 or not self._declare:
                raise
        return await self._open(declare=True)

    async def _open(self, *, declare: bool) -> Subscription:
        return await Subscription.open(
            self._connection,
            self._queue,
            self._on_delivery,
            prefetch=self._prefetch,
            no_ack=self._no_ack,
            declare=declare,
        )


class BatchConsumer:
    """Hands over, as one batch, what has arrived by now, and settles the batch as a whole afterwards.

    A batch never waits to fill. While one batch is handled the next ones arrive, so batches grow with the load.

    Args:
        connection: where.
        queue: what.
        handle: handles a batch; after it has returned the batch is acked (``multiple=True``). When it raises
            `StoreUnavailable` or `BrokerError` the same batch is tried again, nothing is acked meanwhile; when the
            channel died, the batch is dropped, because the broker delivers it again. Any other error is a fault of
            ours: then each message is handled and acked alone, and one that still meets it is put aside, to be tried
            again and again. It is neither acked nor given up; as many as `prefetch` of them stop the consumer.
        prefetch: unsettled messages at a time, which bounds the memory of a batch.
        no_ack: for transient queues: nothing is settled, and what meets a fault of ours is dropped.
    """

    def __init__(
        self,
        connection: Connection,
        queue: Queue | Callable[[], Queue],
        handle: Callable[[list[Delivery]], Awaitable[None]],
        *,
        prefetch: int,
        no_ack: bool = False,
    ) -> None:
        self._consumer = Consumer(connection, queue, self._arrive, prefetch=prefetch, declare=True, no_ack=no_ack)
        self._handle = handle
        self._handling = asyncio.Lock()
        self._aside: set[asyncio.Task[None]] = set()
        self._no_ack = no_ack
        self._most_unacked = max(1, prefetch // 2)
        self._unacked: dict[Subscription, tuple[int, int]] = {}
        self._ack_timer: asyncio.TimerHandle | None = None
        self._acking: asyncio.Task[None] | None = None
        self._inbox: list[Delivery] = []
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.stuck_reason = ""
        """Why the current batch cannot be settled; empty when it can."""

    @property
    def consuming(self) -> bool:
        """True while the broker knows this consumer."""
        return self._consumer.consuming

    @property
    def fault(self) -> str:
        """See `Consumer.fault`."""
        return self._consumer.fault

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._consumer.name

    async def rebind(self) -> None:
        """See `Consumer.rebind`."""
        await self._consumer.rebind()

    async def start(self) -> None:
        """Start consuming; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name=f"handle {self.name}")
            await self._consumer.start()

    async def drain(self) -> None:
        """Take no more, and finish the batches that have arrived; what is aside goes back to the queue."""
        await self._consumer.drain()
        await self._idle.wait()
        await self._end_aside()
        await self._ack()

    async def stop(self) -> None:
        """Stop at once; what is unsettled goes back to the queue."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        await self._consumer.stop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._inbox.clear()
        self._idle.set()
        await self._end_aside()

    async def _end_aside(self) -> None:
        aside = list(self._aside)
        for task in aside:
            task.cancel()
        if aside:
            await asyncio.wait(aside)

    def _arrive(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)
        self._idle.clear()
        self._arrived.set()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._inbox = self._inbox, []
            batch = [delivery for delivery in batch if self._no_ack or delivery.subscription.alive]
            if batch:
                await self._settle(batch)
            if not self._inbox:
                self._idle.set()

    async def _settle(self, batch: list[Delivery]) -> None:
        if await self._insist(batch) is not None:
            await self._settle_singly(batch)
            return
        self.stuck_reason = ""
        if not self._no_ack and (alive := [delivery for delivery in batch if delivery.subscription.alive]):
            await self._handled(alive)

    async def _settle_singly(self, batch: list[Delivery]) -> None:
        faults = []
        for delivery in batch:
            fault = await self._insist([delivery])
            if fault is not None:
                faults.append(fault)
            if self._no_ack:
                continue
            if fault is not None:
                self._put_aside(delivery)
            elif delivery.subscription.alive:
                await delivery.ack()
        none_through = len(faults) == len(batch) and not self._no_ack
        self.stuck_reason = f"a fault of ours, see the log: {faults[-1]!r}" if none_through else ""

    def _put_aside(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._try_again(delivery), name=f"aside {self.name}")
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _try_again(self, delivery: Delivery) -> None:
        failures = 0
        while True:
            await asyncio.sleep(min(LONGEST_REST, reconnect_wait(failures)))
            failures += 1
            if await self._insist([delivery], stuck=False) is None:
                if delivery.subscription.alive:
                    await delivery.ack()
                    self.stuck_reason = ""
                return

    async def _insist(self, batch: list[Delivery], *, stuck: bool = True) -> Exception | None:
        """Handle `batch` until it is handled or its channel is gone, or meets a fault of ours, which is returned."""
        failures = 0
        while batch := [delivery for delivery in batch if self._no_ack or delivery.subscription.alive]:
            try:
                async with self._handling:
                    await self._handle(batch)
            except _LATER as error:
                if stuck:
                    self._retrying(error, failures)
            except Exception as error:
                # It must not end the consumer, which would be connected and deaf.
                log.exception("handling messages failed", extra={"queue": self.name, "messages": len(batch)})
                return error
            else:
                break
            await asyncio.sleep(min(LONGEST_RETRY, reconnect_wait(failures)))
            failures += 1
        return None

    def _retrying(self, error: Exception, failures: int) -> None:
        self.stuck_reason = str(error) or type(error).__name__
        if failures == 0:
            log.warning("a batch waits", extra={"queue": self.name, "reason": str(error)})

    async def _handled(self, batch: list[Delivery]) -> None:
        if self._aside:  # they are not to be acked along with what came after them
            for delivery in batch:
                await delivery.ack()
            return
        # A batch spans two channels when the first one died meanwhile; tags count per channel.
        for delivery in batch:
            _, count = self._unacked.get(delivery.subscription, (0, 0))
            self._unacked[delivery.subscription] = (delivery.tag, count + 1)
        if sum(count for _, count in self._unacked.values()) >= self._most_unacked:
            await self._ack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY, self._ack_soon)

    def _ack_soon(self) -> None:
        self._ack_timer = None
        self._acking = asyncio.create_task(self._ack(), name=f"ack {self.name}")

    async def _ack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        unacked, self._unacked = self._unacked, {}
        for subscription, (tag, count) in unacked.items():
            await subscription.ack(tag, multiple=True, count=count)

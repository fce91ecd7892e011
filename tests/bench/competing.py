"""The tasks of a mix as messages of one durable quorum queue, for the consumers of `tests.bench.apps.competing`."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aio_pika
import msgspec
import pika
from aio_pika.abc import AbstractIncomingMessage

from tests.bench.apps.competing import Ran
from tests.bench.services import BenchError
from tests.support.scheduling import Arrivals, due

PATIENCE = 300.0
"""Seconds without a result until a run counts as failed."""
UNCONFIRMED = 1000
"""Messages that are published before the confirm of the first of them is awaited."""

Tick = Callable[[], None]
"""Called with each task that is over."""


@contextmanager
def declared(url: str, queue: str) -> Iterator[Callable[[], int]]:
    """Make the durable quorum queue of the tasks; gives a function that tells how many consume from it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        yield lambda: int(channel.queue_declare(queue, passive=True).method.consumer_count)


class Submission:
    """The tasks of a mix as messages, and what consumers tell of them.

    Args:
        queue: where the messages go; it is there.
        arrivals: the tasks.
        tick: called with each task that is over.
    """

    def __init__(self, queue: str, arrivals: Arrivals, tick: Tick) -> None:
        self._queue = queue
        self._arrivals = arrivals
        self._tick = tick
        self._ran: dict[int, Ran] = {}
        self._heard = asyncio.Event()

    async def run(self, url: str, check: Callable[[], None]) -> tuple[float, list[Ran]]:
        """Publish all, and wait until all have run.

        Args:
            url: the broker.
            check: called about once a second; raises when waiting has become pointless.

        Returns:
            When the first was published, seconds since the epoch, and what was told of each, in the order of arrival.

        Raises:
            BenchError: nothing was heard for too long.
        """
        connection = await aio_pika.connect(url)
        async with connection, connection.channel() as channel:
            answers = await channel.declare_queue(exclusive=True)
            await answers.consume(self._hear, no_ack=True)
            began = time.time()
            sent = 0
            while sent < len(self._arrivals):
                come = due(self._arrivals, time.time() - began, sent)[:UNCONFIRMED]
                messages = [self._message(number, answers.name) for number in come]
                publish = channel.default_exchange.publish
                await asyncio.gather(*(publish(message, self._queue) for message in messages))
                sent += len(come)
                if sent < len(self._arrivals):
                    await asyncio.sleep(max(0.0, began + self._arrivals[sent][0] - time.time()))
            await self._await_all(check)
        return began, [self._ran[number] for number in range(len(self._arrivals))]

    def _message(self, number: int, reply_to: str) -> aio_pika.Message:
        return aio_pika.Message(
            msgspec.json.encode(self._arrivals[number][1]),
            message_id=str(number),
            reply_to=reply_to,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        assert message.correlation_id is not None
        self._ran[int(message.correlation_id)] = msgspec.json.decode(message.body, type=Ran)
        self._heard.set()
        self._tick()

    async def _await_all(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self._ran) < len(self._arrivals):
            try:
                await asyncio.wait_for(self._heard.wait(), 1.0)
            except TimeoutError:
                check()
                if time.monotonic() > deadline:
                    raise BenchError(f"{len(self._ran):,} of {len(self._arrivals):,} tasks came back") from None
            else:
                self._heard.clear()
                deadline = time.monotonic() + PATIENCE

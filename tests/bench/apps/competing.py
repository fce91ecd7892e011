"""A worker that competes with others for the messages of one queue, as those of most task systems do.

It holds up to `prefetch` messages for each of its slots, runs them in the order in which they came, and acks each when
it is over. Beyond that it does as little as can be: the result goes out before the ack, and no confirm is waited for.
"""

import argparse
import asyncio
import time

import aio_pika
import msgspec
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from tests.bench.loop import new_runner
from tests.bench.site import Site


class Ran(msgspec.Struct, array_like=True, frozen=True):
    """What a worker tells of a task.

    Attributes:
        began, ended: seconds since the epoch.
        speed: of the worker.
    """

    began: float
    ended: float
    speed: float


async def compete(url: str, queue: str, *, slots: int, speed: float, prefetch: int) -> None:
    """Consume until cancelled.

    Args:
        url: the broker.
        queue: where the tasks are; each message is the seconds for which one runs at speed 1, as JSON.
        slots: how many run at a time.
        speed: how fast this worker is.
        prefetch: how many messages it may hold for each slot, those that run included.
    """
    connection = await aio_pika.connect(url)
    async with connection, connection.channel(publisher_confirms=False) as channel:
        await channel.set_qos(prefetch_count=prefetch * slots)
        held: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        tasks = await channel.get_queue(queue)
        await tasks.consume(held.put)
        async with asyncio.TaskGroup() as group:
            for _ in range(slots):
                group.create_task(_slot(held, channel.default_exchange, speed))


async def _slot(held: asyncio.Queue[AbstractIncomingMessage], exchange: AbstractExchange, speed: float) -> None:
    while True:
        message = await held.get()
        run = msgspec.json.decode(message.body, type=float)
        began = time.time()
        await asyncio.sleep(run / speed)
        body = msgspec.json.encode(Ran(began, time.time(), speed))
        assert message.reply_to is not None
        await exchange.publish(aio_pika.Message(body, correlation_id=message.message_id), message.reply_to)
        await message.ack()


def main() -> None:
    """Compete on the broker of the site that the parent process has described."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queue")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--prefetch", type=int, required=True)
    words = parser.parse_args()
    url = Site.from_environment().amqp_url
    with new_runner() as runner:
        runner.run(compete(url, words.queue, slots=words.slots, speed=words.speed, prefetch=words.prefetch))


if __name__ == "__main__":
    main()

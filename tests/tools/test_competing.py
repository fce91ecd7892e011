"""The consumers that Warren is compared with: they hold what they may, run it in order, and ack what is over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pika

from deploy.local import Broker
from tests.bench import infrastructure
from tests.bench.apps.competing import compete
from tests.bench.competing import Submission, declared
from tests.bench.mix import on_competing_consumers
from tests.support.scheduling import SHORT
from tests.support.waiting import eventually


@asynccontextmanager
async def meanwhile(doing: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(doing)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def ready(url: str, queue: str) -> int:
    """How many messages wait that no consumer holds."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


async def test_all_are_run_in_order_and_acked(broker: Broker, namespace: str) -> None:
    queue = f"{namespace}.competing"
    over: list[int] = []
    submission = Submission(queue, [(0.0, 0.001)] * 40, lambda: over.append(1))
    with declared(broker.url, queue) as consumers:
        async with meanwhile(compete(broker.url, queue, slots=1, speed=0.5, prefetch=3)):
            await eventually(lambda: consumers() == 1)
            began, ran = await submission.run(broker.url, lambda: None)
        assert len(over) == len(ran) == 40
        assert began <= ran[0].began
        assert all(first.ended <= then.began for first, then in pairwise(ran))
        assert all(each.ended - each.began >= 0.002 and each.speed == 0.5 for each in ran)
        await eventually(lambda: consumers() == 0)
    assert ready(broker.url, queue) == 0, "what was not acked would be back"


async def test_so_many_are_held_for_each_slot(broker: Broker, namespace: str) -> None:
    queue = f"{namespace}.competing"
    submission = Submission(queue, [(0.0, 60.0)] * 40, lambda: None)
    with declared(broker.url, queue):
        async with meanwhile(submission.run(broker.url, lambda: None)):
            await eventually(lambda: ready(broker.url, queue) == 40)
            async with meanwhile(compete(broker.url, queue, slots=2, speed=1.0, prefetch=3)):
                await eventually(lambda: ready(broker.url, queue) == 40 - 2 * 3)
            await eventually(lambda: ready(broker.url, queue) == 40)


def test_a_mix_on_consumer_processes(broker: Broker, tmp_path: Path) -> None:
    arrivals = [(0.0, SHORT)] * 40 + [(0.0, 0.1)] * 4
    over: list[int] = []
    mix = on_competing_consumers(
        infrastructure.Broker(broker.url, "", 0, private=False), tmp_path, arrivals, 1, lambda: over.append(1)
    )
    assert (len(mix.short), len(mix.long), len(over)) == (40, 4, 44)
    assert mix.makespan >= mix.ideal >= 0.08

"""A consumer on a real broker."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from common.broker import Connection, Consumer, Delivery, declare
from common.telemetry import Telemetry
from common.topology import Topology
from deploy.local import Broker
from tests.support.waiting import eventually


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
async def test_one_that_is_drained_while_it_subscribes_anew_takes_nothing_more(
    broker: Broker, namespace: str, rounds: int
) -> None:
    topology, arrived = Topology(namespace), list[Delivery]()
    queue = topology.work_queue("default")
    connection = Connection(broker.url, name="test", heartbeat=10, connect_timeout=10.0, telemetry=Telemetry())
    await connection.start()
    try:
        await connection.ready(10.0)
        await declare(connection, topology.exchanges(), (queue,))
        for prefetch in range(1, 11):
            consumer = Consumer(connection, queue, arrived.append, prefetch=prefetch)
            await consumer.start()
            await eventually(partial(getattr, consumer, "consuming"))
            await consumer.resize(prefetch + 1)
            for _ in range(rounds):
                await asyncio.sleep(0)
            async with asyncio.timeout(10.0):
                await consumer.drain()
            assert not consumer.consuming
            await consumer.stop()
    finally:
        await connection.stop()

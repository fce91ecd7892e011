"""A consumer on a real broker."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from common.broker import Connection, Consumer, Delivery, Publisher, declare
from common.lifecycle import EXIT_FAILED, Service
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


@pytest.mark.parametrize("no_ack", [False, True])
async def test_a_fault_of_ours_with_a_delivery_ends_the_service(broker: Broker, namespace: str, no_ack: bool) -> None:
    """aiormq logs it and goes on: what was delivered would be held by somebody who has forgotten it."""

    def refuse(delivery: Delivery) -> None:
        raise RuntimeError(f"not {delivery.tag}")

    topology = Topology(namespace)
    queue = topology.work_queue("default")
    connection = Connection(broker.url, name="test", heartbeat=10, connect_timeout=10.0, telemetry=Telemetry())
    await connection.start()
    service = Service("test")
    ended = asyncio.create_task(service.run())
    try:
        await connection.ready(10.0)
        await declare(connection, topology.exchanges(), (queue,))
        consumer = Consumer(connection, queue, refuse, prefetch=1, no_ack=no_ack)
        await consumer.start()
        await Publisher(connection, timeout=10.0, telemetry=Telemetry()).publish("", queue.name, b"{}")
        async with asyncio.timeout(10.0):
            assert await ended == EXIT_FAILED
        await consumer.stop()
    finally:
        await connection.stop()

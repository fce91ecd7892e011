"""Cleaning a namespace over AMQP alone, on whatever broker, and saying what was left in it."""

from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

from common.topology import Topology
from tests.support.conditions import wait_until


def sweep(url: str, namespace: str, queues: tuple[str, ...] = ("default",)) -> dict[str, int]:
    """Delete every durable queue and every exchange of a namespace whose services have ended.

    Args:
        url: the broker.
        namespace: whose.
        queues: the names of its work queues.

    Returns:
        How many messages were left, by queue. What somebody had not acked counts: it is ready again.
    """
    topology = Topology(namespace)
    names = [queue.name for queue in (*topology.durable_queues(), *map(topology.work_queue, queues))]
    left: dict[str, int] = {}
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for name in names:
            channel = connection.channel()
            try:
                count = _messages(channel, name)
                if count:
                    left[name] = count
                channel.queue_delete(name)
                channel.close()
            except ChannelClosedByBroker:
                continue  # it was never declared
        channel = connection.channel()
        for exchange in topology.exchanges():
            channel.exchange_delete(exchange.name)
    return left


def _messages(channel: Any, queue: str) -> int:
    """How many messages are ready once no consumer is left."""

    def state() -> Any:
        return channel.queue_declare(queue, passive=True).method

    wait_until(lambda: not state().consumer_count, 10.0, f"{queue} has lost its consumers")
    return int(state().message_count)

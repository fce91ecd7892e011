"""A namespace of the demo's own on a broker, and its removal from one that is not thrown away."""

import contextlib
import secrets

import pika
import pika.exceptions

from common.topology import Topology
from common.wire import DEFAULT_QUEUE


def new_namespace() -> str:
    """Return a name that nobody else uses."""
    return f"demo-{secrets.token_hex(4)}"


def delete_namespace(amqp_url: str, namespace: str) -> str:
    """Delete the demo's queues and exchanges from a broker.

    Returns:
        what kept them from being deleted, or an empty string.
    """
    topology = Topology(namespace)
    queues = [*topology.durable_queues(), topology.work_queue(DEFAULT_QUEUE)]
    try:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(amqp_url))) as connection:
            channel = connection.channel()
            for queue in queues:
                channel.queue_delete(queue.name)  # one that is not there is no fault (RabbitMQ's AMQP 0-9-1 errata)
            for exchange in topology.exchanges():
                channel.exchange_delete(exchange.name)
    except (pika.exceptions.AMQPError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""

"""A namespace of the demo's own on a broker, and its removal from one that is not thrown away."""

import contextlib
import secrets
from collections.abc import Iterator
from typing import Final

import pika
import pika.exceptions

from common.topology import Topology
from common.wire import DEFAULT_QUEUE
from deploy.demo.errors import DemoError

_TIMEOUT: Final = 10.0  # seconds for each step


def new_namespace() -> str:
    """Return a name that nobody else uses."""
    return f"demo-{secrets.token_hex(4)}"


def check_reachable(amqp_url: str) -> None:
    """Connect to a broker and leave again, as its services could only go on trying.

    Raises:
        DemoError: it cannot be reached, or lets nobody in with this URL.
    """
    try:
        with _connected(amqp_url):
            return
    except (pika.exceptions.AMQPError, OSError, ValueError) as error:
        raise DemoError(f"the broker of WARREN_AMQP_URL cannot be used: {_reason(error)}") from error


def delete_namespace(amqp_url: str, namespace: str) -> str:
    """Delete the demo's queues and exchanges from a broker.

    Returns:
        what kept them from being deleted, or an empty string.
    """
    topology = Topology(namespace)
    queues = [*topology.durable_queues(), topology.work_queue(DEFAULT_QUEUE)]
    try:
        with _connected(amqp_url) as connection:
            channel = connection.channel()
            for queue in queues:
                channel.queue_delete(queue.name)  # one that is not there is no fault (RabbitMQ's AMQP 0-9-1 errata)
            for exchange in topology.exchanges():
                channel.exchange_delete(exchange.name)
    except (pika.exceptions.AMQPError, OSError) as error:
        return _reason(error)
    return ""


@contextlib.contextmanager
def _connected(amqp_url: str) -> Iterator[pika.BlockingConnection]:
    parameters = pika.URLParameters(amqp_url)
    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = _TIMEOUT
    connection = pika.BlockingConnection(parameters)
    try:
        yield connection
    finally:
        if connection.is_open:
            connection.close()


def _reason(error: Exception) -> str:
    return str(error) or repr(error)  # some of pika's have a cause and no text

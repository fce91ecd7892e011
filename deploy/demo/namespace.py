"""A namespace of the demo's own on a broker, and its removal from one that is not thrown away."""

import contextlib
import os
import secrets
from collections.abc import Iterator

import pika
import pika.exceptions

from common.client.session import connection_parameters
from common.settings import ClientSettings, load
from common.topology import Topology
from common.wire import DEFAULT_QUEUE
from deploy.demo.errors import DemoError


class Namespace:
    """A name that nobody else uses on this broker.

    Args:
        amqp_url: the broker; for the rest of how to reach it, the environment's settings hold.
    Raises:
        SettingsError: with everything that is wrong with those.
    """

    def __init__(self, amqp_url: str) -> None:
        self.name = f"demo-{secrets.token_hex(4)}"
        given = {"amqp_url": amqp_url, "namespace": self.name}
        self._settings = load(ClientSettings, table="client", environ=os.environ, overrides=given)

    def check_reachable(self) -> None:
        """Connect and leave again: services that cannot connect would only go on trying.

        Raises:
            DemoError: the broker cannot be reached, or lets nobody in with this URL.
        """
        try:
            with self._connected():
                return
        except (pika.exceptions.AMQPError, OSError) as error:
            raise DemoError(f"the broker of WARREN_AMQP_URL cannot be used: {_reason(error)}") from error

    def delete(self) -> str:
        """Delete its queues and exchanges.

        Returns:
            what kept them from being deleted, or an empty string.
        """
        topology = Topology(self.name)
        queues = [*topology.durable_queues(), topology.work_queue(DEFAULT_QUEUE)]
        try:
            with self._connected() as connection:
                channel = connection.channel()
                for queue in queues:
                    channel.queue_delete(queue.name)  # one that is not there is no fault for RabbitMQ
                for exchange in topology.exchanges():
                    channel.exchange_delete(exchange.name)
        except (pika.exceptions.AMQPError, OSError) as error:
            return _reason(error)
        return ""

    @contextlib.contextmanager
    def _connected(self) -> Iterator[pika.BlockingConnection]:
        parameters = connection_parameters(self._settings, f"warren {self.name}")
        parameters.blocked_connection_timeout = self._settings.connect_timeout
        connection = pika.BlockingConnection(parameters)
        try:
            yield connection
        finally:
            if connection.is_open:
                connection.close()


def _reason(error: Exception) -> str:
    return str(error) or repr(error)  # some of pika's have a cause and no text

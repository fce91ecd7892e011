"""A broker inside this process, for the tests of Warren's users: no server, no sockets.

`Connection.of` makes a `MemoryConnection` for an address like ``memory://user@name``. Everything above channels is the
code that talks to RabbitMQ: consumers, publishers, confirms, the services. What is here behaves as RabbitMQ does where
Warren can tell (AMQP 0-9-1 and RabbitMQ's extensions): confirms, returns of unroutable messages, prefetch,
redelivery of what a channel leaves unsettled, exclusive queues that end with their connection. Nothing is durable.
"""

from common.broker.memory.broker import MemoryBroker, forget, memory_broker
from common.broker.memory.connection import MemoryConnection

__all__ = ["MemoryBroker", "MemoryConnection", "forget", "memory_broker"]

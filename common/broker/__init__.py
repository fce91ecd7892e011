"""RabbitMQ over aio-pika: the only package that imports it."""

from common.broker.connection import Connection
from common.broker.consumer import REST, BatchConsumer, Consumer
from common.broker.declare import declare, ready_messages, restore
from common.broker.publisher import Publisher
from common.broker.subscription import Delivery, Subscription
from common.broker.unreadable import forgive

__all__ = [
    "REST",
    "BatchConsumer",
    "Connection",
    "Consumer",
    "Delivery",
    "Publisher",
    "Subscription",
    "declare",
    "ready_messages",
    "restore",
]

forgive()

"""A broker on this machine: a private node, a container, or the one that `WARREN_AMQP_URL` names."""

from deploy.local.control import BrokerError
from deploy.local.find import Broker, find_broker
from deploy.local.node import RabbitNode

__all__ = ["Broker", "BrokerError", "RabbitNode", "find_broker"]

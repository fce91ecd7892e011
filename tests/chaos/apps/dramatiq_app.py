"""The Dramatiq broker and actor, for workers and client: confirms and persistent messages.

Dramatiq 2.2 declares durable classic queues and has no setting for quorum queues, so it runs with those.
"""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import CurrentMessage

from tests.chaos.body import Doomed, run

broker = RabbitmqBroker(url=f"{os.environ['CHAOS_AMQP_URL']}?heartbeat=5", confirm_delivery=True)
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


def _run(key: int, seconds: float, failures: int, doomed: bool) -> None:
    message = CurrentMessage.get_current_message()
    run(key, seconds, failures, doomed, message.options.get("retries", 0) if message is not None else 0)


chaos = dramatiq.actor(
    actor_name="chaos", queue_name="chaos", max_retries=20, min_backoff=1000, max_backoff=3000, throws=(Doomed,)
)(_run)

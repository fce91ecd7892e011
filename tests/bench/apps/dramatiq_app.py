"""The Dramatiq broker and actor, for worker and client.

Dramatiq 2.2 declares durable classic queues and has no setting for quorum queues, so it runs with those.
"""

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.bench.apps import doom
from tests.bench.site import Site

_site = Site.from_environment()

results = RedisBackend(url=f"{_site.redis_url}/1")
broker = RabbitmqBroker(url=_site.amqp_url, confirm_delivery=True)
_results: Any = Results  # it has no annotations
broker.add_middleware(_results(backend=results))
dramatiq.set_broker(broker)


def _noop() -> None:
    return None


_queue = f"bench-dramatiq-{_site.run}"
noop = dramatiq.actor(actor_name="noop", store_results=True, queue_name=_queue)(_noop)
nap = dramatiq.actor(actor_name="nap", store_results=True, queue_name=_queue)(doom.nap)
killer = dramatiq.actor(actor_name="killer", store_results=True, queue_name=_queue)(doom.kill)

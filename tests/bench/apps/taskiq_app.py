"""The Taskiq broker and task, for worker and client; its RabbitMQ channel has publisher confirms on by default."""

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

from tests.bench.apps import doom
from tests.bench.site import Site

_site = Site.from_environment()
_name = f"bench-taskiq-{_site.run}"

broker = AioPikaBroker(
    _site.amqp_url,
    qos=_site.slots,
    exchange=Exchange(name=_name),
    task_queues=[Queue(name=_name, type=QueueType.QUORUM)],
    dead_letter_queue=Queue(name=f"{_name}-dead", type=QueueType.QUORUM),
).with_result_backend(RedisAsyncResultBackend(f"{_site.redis_url}/2"))


async def _noop() -> None:
    return None


noop = broker.task(task_name="noop")(_noop)
nap = broker.task(task_name="nap")(doom.async_nap)
killer = broker.task(task_name="killer")(doom.kill)

"""The Celery application, for worker and client.

Results go through `rpc://`: they need no second server, reach a blocked `get()` as a message instead of through a
subscription per task, and were as quick as Redis when both were tried (see `docs/performance.md`).
"""

from celery import Celery

from tests.bench.apps import doom
from tests.bench.site import Site

_site = Site.from_environment()

app = Celery("bench", broker=_site.amqp_url.replace("amqp://", "pyamqp://", 1), backend="rpc://")
app.conf.update(
    task_default_queue=f"bench-celery-{_site.run}",
    task_default_queue_type="quorum",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_transport_options={"confirm_publish": True},
    result_persistent=True,
    worker_prefetch_multiplier=32,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_heartbeat=0,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
)


def _noop() -> None:
    return None


noop = app.task(name="noop")(_noop)
nap = app.task(name="nap")(doom.nap)
killer = app.task(name="killer")(doom.kill)

"""The Celery application, for workers and client: late acks, confirms, a quorum queue, persistent messages.

The exchange is a topic exchange: only with one of those does Celery 5.7 keep delayed tasks in the broker's queues, and
not unacked in a worker's memory. Results are not kept: the effect log says what was done, which is in Celery's favour.
"""

import os
from typing import Any

from celery import Celery

from tests.chaos.body import Doomed, Flaky, run

app = Celery("chaos", broker=os.environ["CHAOS_AMQP_URL"].replace("amqp://", "pyamqp://", 1))
app.conf.update(
    task_default_queue="chaos",
    task_default_queue_type="quorum",
    task_default_exchange="chaos",
    task_default_exchange_type="topic",
    task_default_routing_key="chaos",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_transport_options={"confirm_publish": True},
    broker_heartbeat=5,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    task_serializer="json",
    accept_content=["json"],
)


def _run(self: Any, key: int, seconds: float, failures: int, doomed: bool) -> int:
    try:
        return run(key, seconds, failures, doomed, self.request.retries)
    except Flaky as error:
        raise self.retry(exc=error, countdown=1, max_retries=20) from error


chaos = app.task(name="chaos", bind=True, throws=(Doomed,))(_run)

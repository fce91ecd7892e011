"""Somebody deletes an exchange: it is put back with its bindings, and nothing is lost."""

import pika
import pytest

from deploy.local import RabbitNode
from tests.support.conditions import wait_until
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import squares

EXCHANGES = ("submit", "work", "reply", "request", "dlx", "control", "beat")
MOST_LINES = 300
"""Lines that a scheduler may log meanwhile: without a rest between two connections there were thousands."""


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_deleted_exchange(exchange: str, private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    cluster = start_on_node(workers=2)
    load = cluster.stream(squares)
    load.await_more(100)
    name = f"{cluster.namespace}.{exchange}"
    bound = private_broker.bindings(name)
    assert bound

    with pika.BlockingConnection(pika.URLParameters(private_broker.url())) as connection:
        connection.channel().exchange_delete(name)

    load.await_more(500)
    wait_until(lambda: private_broker.bindings(name) == bound, 30, "the bindings are back")
    cluster.scheduler.await_ready(30)
    assert all(worker.metric("warren_worker_slots") for worker in cluster.workers)
    assert cluster.scheduler.metric("warren_live_workers") == 2
    load.await_more(100)
    load.enough()
    load.join(60)
    assert len(cluster.scheduler.said().splitlines()) < MOST_LINES
    note(cluster.assert_nothing_lost(), exchange)

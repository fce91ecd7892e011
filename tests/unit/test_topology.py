"""Names and arguments of the topology, pinned: the broker compares them with those of the queues that exist."""

from __future__ import annotations

import pytest

from common.ids import new_nonce
from common.topology import Queue, Topology

T = Topology("warren")
EVERY_QUEUE = [
    *T.durable_queues(),
    T.work_queue("email"),
    T.lock,
    T.control_queue("w1", "n"),
    T.beat_queue("scheduler", "n"),
    T.client_queue("anna", "n"),
]


def test_the_names_and_kinds_of_the_exchanges() -> None:
    assert {exchange.name: exchange.kind for exchange in T.exchanges()} == {
        "warren.submit": "direct",
        "warren.reply": "direct",
        "warren.request": "direct",
        "warren.work": "direct",
        "warren.dlx": "direct",
        "warren.control": "topic",
        "warren.beat": "fanout",
        "warren.event": "topic",
    }


def test_the_names_and_arguments_of_the_queues() -> None:
    """A change here is an upgrade that cannot start on a broker with the queues of the last version (406)."""
    quorum = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
    bounded = {"x-max-length": 1000, "x-overflow": "drop-head"}
    assert {queue.name: queue.arguments for queue in EVERY_QUEUE} == {
        "warren.submit": quorum,
        "warren.reply": quorum,
        "warren.request": {**quorum, "x-message-ttl": 60_000},
        "warren.dead": quorum,
        "warren.work.email": {
            "x-queue-type": "quorum",
            "x-delivery-limit": 100,
            "x-dead-letter-exchange": "warren.dlx",
            "x-dead-letter-routing-key": "dead",
        },
        "warren.scheduler.lock": {},
        "warren.control.w1-n": bounded,
        "warren.beat.scheduler.n": {**bounded, "x-max-length": 10_000},
        "warren.client.anna.n": {},
    }


@pytest.mark.parametrize("queue", EVERY_QUEUE, ids=lambda queue: queue.name)
def test_a_queue_is_durable_and_quorum_or_transient_and_exclusive(queue: Queue) -> None:
    """4.3 refuses transient queues that are not exclusive; and quorum queues cannot be exclusive."""
    assert queue.durable is not queue.exclusive
    assert ("x-queue-type" in queue.arguments) is queue.durable


@pytest.mark.parametrize("queue", EVERY_QUEUE, ids=lambda queue: queue.name)
def test_no_durable_queue_relies_on_a_delivery_limit_of_the_broker(queue: Queue) -> None:
    """4.x drops after 20 deliveries unless it is said otherwise, and 3.10 takes -1 as 0."""
    if queue.durable:
        limit = queue.arguments["x-delivery-limit"]
        assert isinstance(limit, int)
        assert limit >= 100


def test_no_queue_asks_for_what_quorum_queues_refuse() -> None:
    assert not any("x-max-priority" in queue.arguments for queue in EVERY_QUEUE)


def test_each_bound_queue_is_bound_to_an_exchange_of_the_topology_with_its_keys() -> None:
    bindings = {
        queue.name: (queue.exchange.name, queue.routing_keys) for queue in EVERY_QUEUE if queue.exchange is not None
    }
    assert bindings == {
        "warren.submit": ("warren.submit", ("submit",)),
        "warren.reply": ("warren.reply", ("reply",)),
        "warren.request": ("warren.request", ("request",)),
        "warren.dead": ("warren.dlx", ("dead",)),
        "warren.work.email": ("warren.work", ("email",)),
        "warren.control.w1-n": ("warren.control", ("all", "worker.w1")),
        "warren.beat.scheduler.n": ("warren.beat", ("beat",)),
    }


def test_dead_letters_of_work_queues_arrive_in_the_dead_queue() -> None:
    work = T.work_queue("email")
    assert work.arguments["x-dead-letter-exchange"] == T.dead_exchange.name
    assert T.dead.exchange == T.dead_exchange
    assert work.arguments["x-dead-letter-routing-key"] in T.dead.routing_keys


def test_namespaces_share_no_name() -> None:
    other = Topology("second")
    mine = {queue.name for queue in EVERY_QUEUE} | {exchange.name for exchange in T.exchanges()}
    others = {other.work_queue("email").name, other.lock.name, *(queue.name for queue in other.durable_queues())}
    assert not mine & (others | {exchange.name for exchange in other.exchanges()})


def test_a_client_queue_lies_in_its_users_own_names_and_in_nobody_elses() -> None:
    name = T.client_queue("anna", new_nonce()).name
    assert name.startswith(T.client_prefix("anna"))
    assert not name.startswith(T.client_prefix("ann"))
    assert not T.client_queue("anna.b", "n").name.removeprefix(T.client_prefix("anna")).isalnum()

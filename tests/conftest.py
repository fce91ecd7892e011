"""Brokers and namespaces for tests, and a look after each test at what it left behind."""

import os
import secrets
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import pika
import pytest

from common.topology import Topology
from deploy.local import Broker, BrokerError, RabbitNode, find_broker
from tests.support import scenarios, strays

_QUEUES_IN_TESTS = ("default", "email", "math")
_nodes: set[RabbitNode] = set()
"""The nodes of fixtures: their processes outlive a test, and may be started anew within one."""


def _without_broker(error: BrokerError) -> NoReturn:
    """Skip on a machine without a broker; in CI that would hide everything, so fail there."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(error))
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One broker for all tests that do not break it; `WARREN_TEST_AMQP_URL` names another one than a private node."""
    found = find_broker(url=os.environ.get("WARREN_TEST_AMQP_URL", ""), may_install=False)
    try:
        started = found.__enter__()
    except BrokerError as error:
        _without_broker(error)
    if started.node is not None:
        _nodes.add(started.node)
    try:
        yield started
    finally:
        found.__exit__(None, None, None)


@pytest.fixture(scope="session")
def _private_node() -> Iterator[RabbitNode]:
    if os.environ.get("WARREN_TEST_AMQP_URL"):
        pytest.skip("WARREN_TEST_AMQP_URL names a broker that is not ours to kill")
    try:
        node = RabbitNode()
    except BrokerError as error:
        _without_broker(error)
    _nodes.add(node)
    try:
        yield node
    finally:
        node.close()
        _nodes.discard(node)


@pytest.fixture
def private_broker(_private_node: RabbitNode) -> Iterator[RabbitNode]:
    """A node to kill, pause and starve; tests share it one after another, each finds it running, whole and empty."""
    node = _private_node
    if not node.running:
        node.start()
    node.delete_names()
    yield node
    if node.running:
        node.resume()
        node.undo_faults()


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of its own; what the test declared in it on `broker` is deleted, and its connections are closed."""
    shared: Broker | None = request.getfixturevalue("broker") if "broker" in request.fixturenames else None
    name = f"w{secrets.token_hex(4)}"
    before = shared.node.connection_count() if shared is not None and shared.node is not None else 0
    yield name
    if shared is None:
        return
    if shared.node is None:
        _delete_over_amqp(shared.url, Topology(name))
        return
    shared.node.delete_names(f"{name}.")
    deadline = time.monotonic() + 5.0
    while (now := shared.node.connection_count()) > before:
        assert time.monotonic() < deadline, f"the test left {now - before} AMQP connections open"
        time.sleep(0.02)


def _delete_over_amqp(url: str, topology: Topology) -> None:
    """Delete the names that can be known from outside; deleting what is not there is no fault in AMQP here."""
    queues = [*topology.durable_queues(), *(topology.work_queue(queue) for queue in _QUEUES_IN_TESTS)]
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue.name)
        for exchange in topology.exchanges():
            channel.exchange_delete(exchange.name)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    processes, threads = strays.children().keys(), strays.threads().keys()
    yield
    stray = strays.left_over(
        processes, lambda: {pid for node in _nodes for pid in node.processes()}, strays.children
    ) | strays.left_over(threads, set, strays.threads)
    assert not stray, f"the test left behind: {stray}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what became of the system tests' tasks."""
    scenarios.print_table(terminalreporter)

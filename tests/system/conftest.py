"""Starts clusters for the system tests, and takes down what became of their tasks."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.local import Broker, RabbitNode
from tests.support.cluster import Cluster
from tests.support.scenarios import remember
from tests.support.sweeping import sweep
from tests.support.verdict import Verdict

# pika tells every refused connection in seven lines, which would hide what a failed test has to say.
logging.getLogger("pika").setLevel(logging.CRITICAL)

Note = Callable[..., None]
_passed = pytest.StashKey[bool]()


class StartCluster:
    """Starts clusters that end with the test.

    Args:
        broker: where.
        folder: for their files.
        namespace: of the first cluster; later ones get new ones.
    """

    def __init__(self, broker: Broker, folder: Path, namespace: str = "") -> None:
        self._broker = broker
        self._folder = folder
        self._namespaces = [namespace] if namespace else []
        self.clusters: list[Cluster] = []

    def __call__(self, **options: Any) -> Cluster:
        """Start one and wait until it is ready."""
        (cluster,) = self.together(options)
        return cluster

    def together(self, *options: Mapping[str, Any]) -> list[Cluster]:
        """Start one for each of `options`, all at the same time, and wait until they are ready."""
        started = []
        for each in options:
            namespace = self._namespaces.pop() if self._namespaces else ""
            folder = self._folder / str(len(self.clusters))
            cluster = Cluster(self._broker, folder, **{"namespace": namespace, **each})
            self.clusters.append(cluster)
            started.append(cluster)
            cluster.launch()
        for cluster in started:
            cluster.settle()
        return started

    def end(self, *, failed: bool) -> None:
        """Stop them all; show their logs if the test has failed."""
        for cluster in self.clusters:
            if failed:
                cluster.show_logs()
            cluster.stop()

    def sweep(self, *, failed: bool) -> None:
        """Delete what they have declared.

        Raises:
            AssertionError: there are messages left, although the test has passed. With a private node `judge` has seen
                to that while the services ran; other brokers do not tell what is unacked until they have ended.
        """
        left: dict[str, int] = {}
        for cluster in self.clusters:
            left |= sweep(self._broker.url, cluster.namespace)
        assert failed or self._broker.node is not None or not left, f"messages are left: {left}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember whether the test passed, for the fixtures that end after it."""
    outcome: Any = yield
    if call.when == "call":
        item.stash[_passed] = outcome.get_result().passed


@pytest.fixture
def start_cluster(
    request: pytest.FixtureRequest, broker: Broker, tmp_path: Path, namespace: str
) -> Iterator[StartCluster]:
    """Start clusters on the shared broker, which the test must not harm."""
    start = StartCluster(broker, tmp_path, namespace)
    yield start
    failed = not request.node.stash.get(_passed, False)
    start.end(failed=failed)
    start.sweep(failed=failed)


@pytest.fixture
def start_on_node(request: pytest.FixtureRequest, private_broker: RabbitNode, tmp_path: Path) -> Iterator[StartCluster]:
    """Start clusters on `private_broker`."""
    start = StartCluster(Broker(private_broker.url(), "a private node", private_broker), tmp_path)
    yield start
    start.end(failed=not request.node.stash.get(_passed, False))


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Take a verdict into the table that is printed at the end; give a name where a test has several."""
    began = time.monotonic()

    def take(verdict: Verdict, name: str = "") -> None:
        remember(request.node, f"{request.node.name} {name}".strip(), verdict, time.monotonic() - began)

    return take

"""Starts clusters for the system tests, and prints what became of their tasks."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deploy.local import Broker, RabbitNode
from tests.support.cluster import Cluster
from tests.support.verdict import Verdict

StartCluster = Callable[..., Cluster]
Note = Callable[[Verdict], None]


class _Row(NamedTuple):
    scenario: str
    verdict: Verdict
    seconds: float


_rows: list[_Row] = []


@pytest.fixture
def start_cluster(broker: Broker, tmp_path: Path, namespace: str) -> Iterator[StartCluster]:
    """Start a cluster on the shared broker, which the test must not harm."""
    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            return stack.enter_context(Cluster(broker, tmp_path, namespace=namespace, **options))

        yield start


@pytest.fixture
def start_on_node(private_broker: RabbitNode, tmp_path: Path) -> Iterator[StartCluster]:
    """Start a cluster on `private_broker`."""
    broker = Broker(private_broker.url(), "a private node", private_broker)
    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            return stack.enter_context(Cluster(broker, tmp_path, **options))

        yield start


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Take a verdict into the table that is printed at the end."""
    began = time.monotonic()

    def take(verdict: Verdict) -> None:
        _rows.append(_Row(request.node.name, verdict, time.monotonic() - began))

    return take


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of scenarios."""
    if not _rows:
        return
    terminalreporter.section("nothing lost")
    width = max(len(row.scenario) for row in _rows)
    terminalreporter.write_line(f"{'scenario':{width}}  tasks  ran twice  most runs  seconds")
    for name, verdict, seconds in _rows:
        terminalreporter.write_line(
            f"{name:{width}}  {verdict.tasks:5}  {verdict.twice:9}  {verdict.most_runs:9}  {seconds:7.1f}"
        )
    tasks = sum(row.verdict.tasks for row in _rows)
    twice = sum(row.verdict.twice for row in _rows)
    terminalreporter.write_line(f"{len(_rows)} scenarios, {tasks} tasks, {twice} ran twice, 0 lost")

"""The network between one party and the broker is cut, or swallows what one side says, for longer than a heartbeat."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.local import RabbitNode
from tests.support.proxy import Direction, Proxy
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import naps

FLOW = {"chunk": 10, "window": 60}
PARTIES = ("scheduler", "worker", "client")

Ways = dict[str, tuple[Proxy, str]]


@pytest.fixture
def ways(private_broker: RabbitNode) -> Iterator[Ways]:
    """For each party a proxy to the broker, and the URL through it."""
    with ExitStack() as stack:
        proxies = {party: stack.enter_context(Proxy("127.0.0.1", private_broker.port)) for party in PARTIES}
        port = str(private_broker.port)
        yield {party: (proxy, private_broker.url().replace(port, str(proxy.port))) for party, proxy in proxies.items()}


@pytest.mark.parametrize("direction", ["down", "up"])
def test_one_way(direction: Direction, ways: Ways, start_on_node: StartCluster, note: Note) -> None:
    """Three systems at a time; what one party is told (down), or says (up), vanishes."""
    options = (
        {"workers": 2, "scheduler": {"WARREN_AMQP_URL": ways["scheduler"][1]}},
        {"workers": 2, "worker": [{"WARREN_AMQP_URL": ways["worker"][1]}, {}]},
        {"workers": 2, "client_url": ways["client"][1]},
    )
    clusters = dict(zip(PARTIES, start_on_node.together(*options), strict=True))
    loads = {party: cluster.stream(naps(0.05)) for party, cluster in clusters.items()}
    for load in loads.values():
        load.await_more(40)
    for proxy, _ in ways.values():
        proxy.drop(direction)
    clusters["scheduler"].scheduler.await_unready(25)
    clusters["worker"].workers[0].await_unready(25)
    loads["worker"].await_more(100)  # done by the other one
    for proxy, _ in ways.values():
        proxy.heal()
    for party, load in loads.items():
        load.await_more(40)
        load.enough()
        load.join(60)
        note(clusters[party].assert_nothing_lost(), party)


def test_cut_again_and_again(ways: Ways, start_on_node: StartCluster, note: Note) -> None:
    """Connections are reset in the middle of whatever is on the way, ten times."""
    cluster = start_on_node(
        workers=2,
        scheduler={"WARREN_AMQP_URL": ways["scheduler"][1]},
        worker={"WARREN_AMQP_URL": ways["worker"][1]},
        client_url=ways["client"][1],
    )
    load = cluster.load(naps(0.005), 900, **FLOW)
    for number in range(10):
        load.await_more(20)
        proxy, _ = ways[PARTIES[number % len(PARTIES)]]
        proxy.cut()
        proxy.heal()
    load.join(60)
    note(cluster.assert_nothing_lost())

"""The network between one party and the broker is cut, or swallows what one side says, for longer than a heartbeat."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.local import RabbitNode
from tests.support.conditions import wait_until
from tests.support.proxy import Direction, Proxy
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import naps

TASKS = 250
FLOW = {"chunk": 10, "window": 60}
PARTIES = ("scheduler", "worker", "client")


@pytest.fixture
def proxies(private_broker: RabbitNode) -> Iterator[dict[str, Proxy]]:
    """A way to the broker for each party."""
    with ExitStack() as stack:
        yield {party: stack.enter_context(Proxy("127.0.0.1", private_broker.port)) for party in PARTIES}


@pytest.mark.parametrize("direction", ["down", "up"])
def test_one_way(
    direction: Direction, proxies: dict[str, Proxy], private_broker: RabbitNode, start_on_node: StartCluster, note: Note
) -> None:
    """Three systems at a time: confirms, deliveries and results (down), or publishes and acks (up) of one party vanish."""
    through = {
        party: private_broker.url().replace(str(private_broker.port), str(proxies[party].port)) for party in PARTIES
    }
    clusters = dict(
        zip(
            PARTIES,
            start_on_node.together(
                {"workers": 2, "scheduler": {"WARREN_AMQP_URL": through["scheduler"]}},
                {"workers": 2, "worker": [{"WARREN_AMQP_URL": through["worker"]}, {}]},
                {"workers": 2, "client_url": through["client"]},
            ),
            strict=True,
        )
    )
    loads = {party: cluster.load(naps(0.05), TASKS, **FLOW) for party, cluster in clusters.items()}
    for load in loads.values():
        load.await_more(60)
    for proxy in proxies.values():
        proxy.drop(direction)
    clusters["scheduler"].scheduler.await_unready(25)
    clusters["worker"].workers[0].await_unready(25)
    wait_until(lambda: loads["worker"].finished == TASKS, 40, "the other worker does it all")
    for proxy in proxies.values():
        proxy.heal()
    for party, load in loads.items():
        load.join(60)
        note(clusters[party].assert_nothing_lost(), party)


def test_cut_again_and_again(
    proxies: dict[str, Proxy], private_broker: RabbitNode, start_on_node: StartCluster, note: Note
) -> None:
    """Connections are reset in the middle of whatever is on the way, ten times."""
    through = {
        party: private_broker.url().replace(str(private_broker.port), str(proxies[party].port)) for party in PARTIES
    }
    cluster = start_on_node(
        workers=2,
        scheduler={"WARREN_AMQP_URL": through["scheduler"]},
        worker={"WARREN_AMQP_URL": through["worker"]},
        client_url=through["client"],
    )
    load = cluster.load(naps(0.005), 900, **FLOW)
    for number in range(10):
        load.await_more(20)
        proxy = proxies[PARTIES[number % len(PARTIES)]]
        proxy.cut()
        proxy.heal()
    load.join(60)
    note(cluster.assert_nothing_lost())

"""What was dispatched vanishes, or its worker does, under load: all that the store had ends once, and is found soon.

`test_broker_faults` purges and deletes a work queue, and wipes a broker to which nothing is submitted meanwhile.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pika
import pytest

from common.errors import UnknownTask
from deploy.local import RabbitNode
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.healing import Dispatched
from tests.support.journal import Load, outcomes
from tests.support.proxy import Direction, Proxy
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import gated, naps

PATIENCE = 60.0
DIRECTIONS: tuple[Direction, ...] = ("both", "up", "down")
LONG = 8


def join_what_was_stored(cluster: Cluster, load: Load, stored: set[str]) -> int:
    """Wait for the outcome of every task, and take out of the journal those that went down with the broker.

    The broker had confirmed them and lost them before the scheduler had them: nobody else ever did.

    Args:
        cluster: whose journal.
        load: what was submitted.
        stored: what the store had when the broker lost its data.

    Returns:
        How many went down.
    """
    load.enough()
    load.join_submissions(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    gone = 0
    for handle in load.handles:
        try:
            cluster.journal.told.update(outcomes([handle], deadline))
        except UnknownTask:
            assert handle.id not in stored, "the store had it"
            del cluster.journal.confirmed[handle.id]
            gone += 1
    return gone


def test_broker_wiped_under_load(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """The broker's disk is lost while submissions go on, and an empty broker takes its place."""
    cluster = start_on_node(workers=2)
    load = cluster.stream(naps(0.1), window=100)
    load.await_more(100)
    private_broker.kill()
    before = Dispatched(cluster)
    private_broker.wipe()
    private_broker.start()
    back_at = time.time()
    load.await_more(100, PATIENCE)
    gone = join_what_was_stored(cluster, load, before.ids)
    note(cluster.assert_nothing_lost(), f"({before.found(back_at)}; {gone} were not stored yet)")


def test_old_copy_of_the_broker(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path
) -> None:
    """An old copy of the broker's disk comes back: old bundles are delivered again, new ones are gone."""
    cluster = start_on_node(workers=2)
    load = cluster.stream(naps(0.1), window=100)
    load.await_more(100)
    private_broker.stop()
    private_broker.save(tmp_path / "copy")
    private_broker.start()
    load.await_more(200, PATIENCE)
    private_broker.stop()
    before = Dispatched(cluster)
    private_broker.restore(tmp_path / "copy")
    private_broker.start()
    back_at = time.time()
    load.await_more(100, PATIENCE)
    gone = join_what_was_stored(cluster, load, before.ids)
    note(cluster.assert_nothing_lost(), f"({before.found(back_at)}; {gone} were not stored yet)")


@pytest.fixture
def proxies(private_broker: RabbitNode) -> Iterator[dict[Direction, Proxy]]:
    """A way to the broker for one worker of each direction."""
    with ExitStack() as stack:
        yield {each: stack.enter_context(Proxy("127.0.0.1", private_broker.port)) for each in DIRECTIONS}


class Cut(NamedTuple):
    """How long a worker is cut off, and what the services are told."""

    at_least: float  # seconds, also when it is found to be dead sooner
    environment: Mapping[str, str]


BRIEF = Cut(0.0, {"WARREN_DEAD_AFTER": "5"})
MINUTES = Cut(150.0, {"WARREN_HEARTBEAT": "10"})
"""Warren's own settings; those of the tests have a shorter heartbeat."""


@pytest.mark.timeout(400)  # the cut has to be noticed from both sides, by heartbeats
@pytest.mark.parametrize(
    "cut", [pytest.param(BRIEF, id="brief"), pytest.param(MINUTES, id="minutes", marks=pytest.mark.chaos)]
)
def test_worker_cut_off_until_dead(
    cut: Cut,
    proxies: dict[Direction, Proxy],
    private_broker: RabbitNode,
    start_on_node: StartCluster,
    note: Note,
    tmp_path: Path,
) -> None:
    """A worker is cut off for longer than `dead_after`, in both directions and in one, and comes back.

    What it ran is given to another one. What it still runs then it is told to stop; its late replies change nothing.
    """
    port = str(private_broker.port)
    clusters = dict(
        zip(
            DIRECTIONS,
            start_on_node.together(
                *(
                    {
                        "workers": 2,
                        "slots": LONG + 4,  # one alone can hold all the long ones, and do short ones beside
                        "environment": cut.environment,
                        "worker": [{"WARREN_AMQP_URL": private_broker.url().replace(port, str(proxy.port))}, {}],
                    }
                    for proxy in proxies.values()
                )
            ),
            strict=True,
        )
    )
    gate = tmp_path / "gate"
    long = {each: cluster.load(gated(gate), LONG) for each, cluster in clusters.items()}
    wait_until(lambda: all(load.confirmed for load in long.values()), 20.0, "the long ones are confirmed first")
    short = {each: cluster.stream(naps(0.05), chunk=2, window=4) for each, cluster in clusters.items()}
    for each, cluster in clusters.items():
        wait_until(lambda: begun_by(cluster, 0), 20.0, "the worker has begun long tasks")  # noqa: B023 - at once
        short[each].await_more(20)
    began = {each: (Dispatched(cluster), begun_by(cluster, 0)) for each, cluster in clusters.items()}
    for each, proxy in proxies.items():
        proxy.drop(each)

    ends = time.monotonic() + cut.at_least
    for each, cluster in clusters.items():
        await_begun_elsewhere(cluster, began[each][1])
    while time.monotonic() < ends:
        for load in short.values():
            load.await_more(20)  # by the other worker, all the while
    for proxy in proxies.values():
        proxy.heal()
    for cluster in clusters.values():
        cluster.workers[0].await_ready(60.0)

    for each, cluster in clusters.items():
        short[each].enough()
        short[each].join(PATIENCE)
        running = partial(cluster.workers[0].metric, "warren_worker_running")
        wait_until(lambda: not running(), PATIENCE, "it has stopped what another one has", running)  # noqa: B023
    gate.touch()
    for each, cluster in clusters.items():
        long[each].join(PATIENCE)
        verdict = cluster.assert_nothing_lost()
        before, keys = began[each]
        ended = {effect.key for effect in cluster.effects.all() if ended_by(cluster, effect.key, 0)}
        assert not keys & ended, "it was told to stop what another one has"
        note(verdict, f"{each} ({before.found(before.at)})")


def begun_by(cluster: Cluster, worker: int) -> set[int]:
    """The long tasks that a worker has begun itself."""
    pid = cluster.workers[worker].pid
    return {each.key for each in cluster.effects.all() if each.what == "start" and each.pid == pid and each.key < LONG}


def await_begun_elsewhere(cluster: Cluster, keys: set[int]) -> None:
    """Return when others than the first worker run these tasks: suspects have a process of their own."""
    pid = cluster.workers[0].pid

    def elsewhere() -> set[int]:
        return {each.key for each in cluster.effects.all() if each.what == "start" and each.pid != pid}

    wait_until(lambda: keys <= elsewhere(), 90.0, f"others run {keys}", lambda: keys & elsewhere())


def ended_by(cluster: Cluster, key: int, worker: int) -> bool:
    """Whether a worker has come to the end of a task."""
    return any(
        effect.what == "end" and effect.key == key and effect.pid == cluster.workers[worker].pid
        for effect in cluster.effects.all()
    )


def test_queue_that_never_runs_empty(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """Bundles vanish from a queue in which others always wait, so it never shows by itself that some are missing."""
    cluster = start_on_node(slots=4, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    load = cluster.stream(naps(0.02), chunk=50, window=1000, rate=math.inf)
    load.await_more(100)
    stolen = 0
    with pika.BlockingConnection(pika.URLParameters(private_broker.url())) as connection:
        channel = connection.channel()
        deadline = time.monotonic() + 20.0
        while stolen < 10:
            assert time.monotonic() < deadline, f"{stolen} bundles were there to be taken"
            stolen += channel.basic_get(f"{cluster.namespace}.work.default", auto_ack=True)[0] is not None
    before = Dispatched(cluster)
    wait_until(
        lambda: cluster.scheduler.metric("warren_tasks_lost_total") >= stolen,
        PATIENCE,
        f"{stolen} bundles are missed",
        lambda: cluster.scheduler.metric("warren_tasks_lost_total"),
    )
    missed_after = time.time() - before.at
    load.await_more(200)
    load.enough()
    load.join(PATIENCE)
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice, "what was taken had not been run"
    note(verdict, f"({stolen} bundles missed after {missed_after:.1f} s, the load going on)")

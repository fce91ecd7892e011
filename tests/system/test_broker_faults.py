"""The broker restarts, dies, freezes, runs out of memory, or loses a queue or all of its data, under load."""

import time

import pytest

from deploy.local import RabbitNode
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.healing import Dispatched
from tests.support.journal import Load
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import naps, squares

# Reconnects are spread over seconds on purpose; a client may hear of its results only when it asks, after 5 s.
PATIENCE = 60.0
FLOW = {"chunk": 10, "window": 60}


def test_broker_restarted(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    cluster = start_on_node()
    load = cluster.load(squares, 400, **FLOW)
    load.await_more()
    private_broker.restart()
    load.join(PATIENCE)
    note(cluster.assert_nothing_lost())


def test_broker_killed(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    cluster = start_on_node()
    load = cluster.load(squares, 400, **FLOW)
    load.await_more()
    private_broker.flush_metadata()
    private_broker.kill()
    private_broker.start()
    load.join(PATIENCE)
    note(cluster.assert_nothing_lost())


def test_connections_closed(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    cluster = start_on_node(workers=2)
    load = cluster.load(squares, 600, **FLOW)
    for _ in range(3):
        load.await_more(60)
        private_broker.close_all_connections()
    load.join(PATIENCE)
    note(cluster.assert_nothing_lost())


def test_memory_alarm(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """Publishing stalls for longer than a worker's silence may last, and nobody is declared dead for it."""
    cluster = start_on_node(scheduler={"WARREN_DEAD_AFTER": "4", "WARREN_RESCUE_INTERVAL": "1"})
    load = cluster.load(squares, 400, **FLOW)
    load.await_more()
    private_broker.set_memory_alarm(True)
    finished = await_stall(load)
    stalled_at = time.monotonic()
    wait_until(lambda: time.monotonic() - stalled_at > 8, 20, "the alarm lasts")
    assert load.finished == finished < 400, "somebody still published"
    private_broker.set_memory_alarm(False)
    load.join(PATIENCE)

    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice, "nothing died"
    note(verdict)


def await_stall(load: Load, quiet: float = 1.0) -> int:
    """Return how many outcomes had come when none more came for `quiet` seconds."""
    seen, since = load.finished, time.monotonic()

    def stalled() -> bool:
        nonlocal seen, since
        if load.finished != seen:
            seen, since = load.finished, time.monotonic()
        return time.monotonic() - since > quiet

    wait_until(stalled, 20, "no more outcomes come")
    return seen


def test_broker_frozen(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """For longer than two heartbeats of 5 s: every connection is given up by one side or the other."""
    cluster = start_on_node()
    load = cluster.load(squares, 300, **FLOW)
    load.await_more()
    private_broker.pause()
    cluster.scheduler.await_unready(25)
    cluster.workers[0].await_unready(25)
    private_broker.resume()
    load.join(PATIENCE)
    note(cluster.assert_nothing_lost())


@pytest.mark.parametrize("operation", ["delete", "purge"])
def test_work_queue_emptied(
    operation: str, private_broker: RabbitNode, start_on_node: StartCluster, note: Note
) -> None:
    """An operator deletes or purges the work queue while bundles wait in it, twice."""
    cluster = start_on_node(scheduler={"WARREN_RESCUE_INTERVAL": "1"}, slots=4)
    name = f"{cluster.namespace}.work.default"
    load = cluster.load(naps(0.005), 2000, chunk=50, window=400)
    for _ in range(2):
        load.await_more()
        freeze_while_bundles_wait(cluster, load, name)
        before = Dispatched(cluster)
        private_broker.eval(_ON_QUEUE.format(operation=_OPERATIONS[operation], name=name))
        gone_at = time.time()
        cluster.workers[0].resume()
    load.join(PATIENCE)

    assert cluster.scheduler.metric("warren_tasks_lost_total"), "the fault met no bundle"
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice, "what was in the queue had not been run"
    note(verdict, f"({before.found(gone_at)})")


def freeze_while_bundles_wait(cluster: Cluster, load: Load, queue: str) -> None:
    """Freeze the worker at a moment when the queue holds more than the worker has."""
    node = cluster.broker.node
    assert node is not None
    for _ in range(50):
        cluster.workers[0].pause()
        if node.queue_depths()[queue].ready:
            return
        cluster.workers[0].resume()
        load.await_more(3)
    raise AssertionError("no bundle ever waits in the queue")


def test_broker_data_wiped(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """The broker comes back empty: what the store has is finished all the same."""
    cluster = start_on_node(scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    load = cluster.load(naps(0.05), 200, chunk=50, window=200)
    wait_until(lambda: len(cluster.store.tasks()) == 200, 20, "the store has all tasks")
    assert load.finished < 200, "the fault has to meet unfinished tasks"
    private_broker.kill()
    private_broker.wipe()
    private_broker.start()
    load.join(PATIENCE)
    note(cluster.assert_nothing_lost())


_ON_QUEUE = '{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{name}">>)), {operation}.'
_OPERATIONS = {
    "delete": "rabbit_amqqueue:delete(Queue, false, false, <<>>)",
    "purge": "rabbit_amqqueue:purge(Queue)",
}

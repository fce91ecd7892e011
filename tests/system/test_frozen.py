"""Processes that stop for a while without dying, and task functions that take longer than anybody expects."""

import os
import signal
import time
from pathlib import Path

import msgspec

from common.tasks import Call
from deploy.local import RabbitNode
from deploy.local.processes import await_stopped
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected, Load, outcomes
from tests.system.conftest import Note, StartCluster
from tests.system.submitter import Confirmed, submitter_process
from tests.system.workloads import naps, squares

FLOW = {"chunk": 10, "window": 60}
PATIENCE = 60.0


def await_connections(cluster: Cluster, count: int) -> None:
    """Return when the broker has this many connections: it gives a frozen one up after about two heartbeats."""
    node = cluster.broker.node
    assert node is not None
    wait_until(lambda: node.connection_count() <= count, 25, f"{count} connections are left", node.connection_count)


def await_progress(load: Load, more: int = 40) -> None:
    before = load.finished
    wait_until(lambda: load.finished >= before + more, 30, "results come")


def test_scheduler_frozen(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """Longer than its heartbeat: the broker closes its connections; after that it goes on as if restarted."""
    cluster = start_on_node()
    load = cluster.load(squares, 300, **FLOW)
    await_progress(load)
    cluster.scheduler.pause()
    await_connections(cluster, private_broker.connection_count() - 2)
    cluster.scheduler.resume()
    load.join(PATIENCE)

    assert not cluster.scheduler.exits
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice
    note(verdict)


def test_worker_frozen(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """Its tasks run elsewhere meanwhile; what it answers after its return is stale, and changes nothing."""
    cluster = start_on_node(workers=2)
    load = cluster.load(naps(0.2), 200, **FLOW)
    await_progress(load)
    cluster.workers[0].pause()
    await_connections(cluster, private_broker.connection_count() - 2)
    wait_until(lambda: load.finished == 200, 30, "the other worker does it all", lambda: load.finished)
    cluster.workers[0].resume()
    load.join(PATIENCE)

    verdict = cluster.assert_nothing_lost()
    assert verdict.twice, "the frozen worker had begun some"
    assert cluster.scheduler.metric("warren_replies_stale_total"), "it has answered for what others have done"
    note(verdict)


def test_only_worker_frozen(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """Nobody else is there: it gets its own tasks back, and does not run those again that it still runs."""
    cluster = start_on_node()
    load = cluster.load(squares, 300, **FLOW)
    await_progress(load)
    cluster.workers[0].pause()
    await_connections(cluster, private_broker.connection_count() - 2)
    cluster.workers[0].resume()
    load.join(PATIENCE)
    note(cluster.assert_nothing_lost())


def test_client_frozen(private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path) -> None:
    """Its connection is given up with its reply queue; back again it goes on, and its results are there."""
    cluster = start_on_node()
    confirmed = tmp_path / "confirmed"

    def lines() -> list[bytes]:
        return confirmed.read_bytes().split(b"\n")[:-1] if confirmed.exists() else []

    with submitter_process(cluster.broker.url, cluster.namespace, confirmed) as process:
        wait_until(lambda: len(lines()) >= 10, 20, "confirms come")
        process.send_signal(signal.SIGSTOP)
        await_stopped(process.pid)
        await_connections(cluster, 4)
        before = len(lines())
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(lines()) >= before + 10, 20, "more confirms come")
    for line in lines():
        chunk = msgspec.json.decode(line, type=Confirmed)
        for task_id, key in zip(chunk.ids, chunk.keys, strict=True):
            cluster.journal.confirmed[task_id] = squares(key)[1]
    client = cluster.client()
    handles = [client.handle(task_id) for task_id in cluster.journal.confirmed]
    cluster.journal.told.update(outcomes(handles, time.monotonic() + PATIENCE))
    note(cluster.assert_nothing_lost())


def test_handler_blocks_its_loop(start_on_node: StartCluster, note: Note) -> None:
    """For more than two heartbeats: connections, beats and plain functions go on, and nothing is run again."""
    cluster = start_on_node(scheduler={"WARREN_DEAD_AFTER": "5", "WARREN_RESCUE_INTERVAL": "1"})
    blocked = cluster.load(lambda key: (Call("block", (key, 12.0)), Expected(key, key * key)), 1)
    wait_until(lambda: cluster.effects.runs(), 10, "it has begun")
    others = cluster.load(lambda key: (Call("square_in_thread", (key,)), Expected(key, key * key)), 100, **FLOW)
    others.join(8)
    assert not blocked.finished, "plain functions have run beside it"
    blocked.join(PATIENCE)

    assert "lost the broker connection" not in cluster.workers[0].said()
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice
    note(verdict)


def test_handler_longer_than_the_consumer_timeout(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note
) -> None:
    """Half-way the worker says `held` and acks, so the broker takes nothing back: one run, however long."""
    private_broker.set_consumer_timeout(4000)
    cluster = start_on_node(worker={"WARREN_HOLD_AFTER": "2"}, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    load = cluster.load(naps(10.0), 3)
    load.join(PATIENCE)

    assert cluster.scheduler.metric("warren_tasks_held_total") == 3
    assert "the consumer ended" not in cluster.workers[0].said(), "the broker has taken the consumer back"
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice
    note(verdict)


def test_holder_of_a_long_task_dies(start_on_node: StartCluster, note: Note) -> None:
    """Its delivery is acked: only the beats said who had it, and their end starts it again elsewhere."""
    cluster = start_on_node(workers=2, worker={"WARREN_HOLD_AFTER": "1"}, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    load = cluster.load(naps(6.0), 2, chunk=1)
    wait_until(lambda: cluster.scheduler.metric("warren_tasks_held_total") == 2, 15, "both are held")
    holders = {effect.pid for effect in cluster.effects.all()}
    for worker in cluster.workers:
        if worker.pid in holders:
            os.kill(worker.pid, signal.SIGKILL)
    load.join(PATIENCE)

    verdict = cluster.assert_nothing_lost()
    assert verdict.twice == 2
    note(verdict)

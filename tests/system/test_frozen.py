"""Processes that stop for a while without dying, and task functions that take longer than anybody expects."""

import signal
import time
from pathlib import Path

import msgspec
import pytest

from common.tasks import Call
from deploy.local import RabbitNode
from deploy.local.processes import await_stopped
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected, outcomes
from tests.system.conftest import Note, StartCluster
from tests.system.submitter import Confirmed, submitter_process
from tests.system.workloads import naps, squares

FLOW = {"chunk": 10, "window": 60}
PATIENCE = 60.0


def await_connections(node: RabbitNode, count: int) -> None:
    """Return when the broker has this many connections: it gives a frozen one up after about two heartbeats."""
    wait_until(lambda: node.connection_count() <= count, 25, f"{count} connections are left", node.connection_count)


def confirms(file: Path) -> list[bytes]:
    """What a submitter process has written so far."""
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


def test_longer_than_the_heartbeat(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path
) -> None:
    """Four systems at the same time; in each another process is frozen until the broker has given it up."""
    scheduler, one_of_two, only_worker, client = start_on_node.together({}, {"workers": 2}, {}, {})
    loads = [
        scheduler.stream(naps(0.05)),
        one_of_two.stream(naps(0.4)),
        only_worker.stream(naps(0.05)),
    ]
    confirmed = tmp_path / "confirmed"
    with submitter_process(client.broker.url, client.namespace, confirmed) as submitter:
        for load in loads:
            load.await_more()
        wait_until(lambda: len(confirms(confirmed)) >= 10, 20, "confirms come")
        connections = private_broker.connection_count()
        frozen = [scheduler.scheduler, one_of_two.workers[0], only_worker.workers[0]]
        for service in frozen:
            service.pause()
        submitter.send_signal(signal.SIGSTOP)
        await_stopped(submitter.pid)

        await_connections(private_broker, connections - 7)
        loads[1].await_more(100)  # done by the other worker
        before = len(confirms(confirmed))

        for service in frozen:
            service.resume()
        submitter.send_signal(signal.SIGCONT)
        for load in loads:
            load.await_more()
            load.enough()
            load.join(PATIENCE)
        wait_until(lambda: len(confirms(confirmed)) >= before + 10, 20, "more confirms come")
    take_over(client, confirmed)

    verdict = scheduler.assert_nothing_lost()
    assert not scheduler.scheduler.exits, "it goes on, and is not started again"
    assert not verdict.twice
    note(verdict, "scheduler")

    verdict = one_of_two.assert_nothing_lost()
    assert verdict.twice, "the frozen worker had begun some"
    assert one_of_two.scheduler.metric("warren_replies_stale_total"), "it has answered for what the other has done"
    note(verdict, "one worker of two")

    note(only_worker.assert_nothing_lost(), "only worker")
    note(client.assert_nothing_lost(), "client")


def take_over(cluster: Cluster, confirmed: Path) -> None:
    """Have a new client ask for what another one has submitted."""
    for line in confirms(confirmed):
        chunk = msgspec.json.decode(line, type=Confirmed)
        for task_id, key in zip(chunk.ids, chunk.keys, strict=True):
            cluster.journal.confirmed[task_id] = squares(key)[1]
    client = cluster.client()
    handles = [client.handle(task_id) for task_id in cluster.journal.confirmed]
    cluster.journal.told.update(outcomes(handles, time.monotonic() + PATIENCE))


@pytest.mark.timeout(240)
def test_long_handlers(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    """One blocks its loop for a minute, one outlasts the consumer timeout, one loses its holder: three at a time.

    Half-way to the consumer timeout a worker says `held` and acks, so the broker takes nothing back.
    """
    private_broker.set_consumer_timeout(5000)
    patient = {"WARREN_HOLD_AFTER": "2.5"}
    judge = {"WARREN_RESCUE_INTERVAL": "1", "WARREN_DEAD_AFTER": "5"}
    blocking, long, dying = start_on_node.together(
        {"worker": patient, "scheduler": judge},
        {"worker": patient, "scheduler": judge},
        {"worker": {"WARREN_HOLD_AFTER": "1"}, "scheduler": {"WARREN_DEAD_AFTER": "100"}, "workers": 2},
    )
    blocked = blocking.load(lambda key: (Call("block", (key, 60.0)), Expected(key, key * key)), 1)
    lasting = long.load(naps(12.0), 3)
    doomed = dying.load(naps(6.0), 2, chunk=1)

    wait_until(blocking.effects.runs, 10, "the loop is blocked")
    others = blocking.load(lambda key: (Call("square_in_thread", (key,)), Expected(key, key * key)), 100, **FLOW)
    others.join(30)
    assert not blocked.finished, "plain functions run beside it"

    wait_until(lambda: dying.scheduler.metric("warren_tasks_held_total") == 2, 15, "both are held")
    holders = {effect.pid for effect in dying.effects.all()}
    for worker in dying.workers:
        if worker.pid in holders:
            worker.kill()
    for load in (blocked, lasting, doomed):
        load.join(2 * PATIENCE)

    for name, cluster, tasks in (("blocks its loop", blocking, 1), ("outlasts the consumer timeout", long, 3)):
        assert cluster.scheduler.metric("warren_tasks_held_total") == tasks
        log = cluster.workers[0].said()
        assert "lost the broker connection" not in log
        assert "the consumer ended" not in log, "the broker has taken the consumer back"
        verdict = cluster.assert_nothing_lost()
        assert not verdict.twice
        note(verdict, name)
    verdict = dying.assert_nothing_lost()
    assert verdict.twice == 2, "only the beats said who had them, and their end starts them again"
    note(verdict, "holder dies")

"""Workers that leave under load, because a signal or an operator says so: every task runs exactly once.

Some are tasks that only some workers can run, so that there is something in the direct queues of those that leave.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from common.tasks import Call
from deploy.local import RabbitNode
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected
from tests.support.services import ROOT, ServiceProcess
from tests.system.conftest import Note, StartCluster

SLOTS = 6
LABELLED: Mapping[str, str] = {"WARREN_LABELS": "gpu"}
COUNTED = ("warren_tasks_lost_total", "warren_suspects_total", "warren_redelivered_total", "warren_replies_stale_total")
"""What the scheduler counts when something did not go as it should."""


def mixed(key: int) -> tuple[Call[int], Expected]:
    """Tasks of 5 ms to 1.2 s, on both runtimes; every third one needs a label that half of the workers have."""
    name = "square_in_thread" if key % 4 == 0 else "square"
    call: Call[int] = Call(name, (key, 1.2 if key % 10 == 0 else 0.005 * (key % 7)))
    return (call.options(requires="gpu") if key % 3 == 0 else call), Expected(key, key * key)


def warren(cluster: Cluster, *arguments: str) -> str:
    """What the command line says; it has to succeed."""
    environment = os.environ | {"WARREN_AMQP_URL": cluster.broker.url, "WARREN_NAMESPACE": cluster.namespace}
    done = subprocess.run(
        [Path(sys.executable).with_name("warren"), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def worker_ids(cluster: Cluster) -> dict[int, str]:
    """The ids of the workers that live, by process id."""
    found = [json.loads(line) for line in warren(cluster, "workers", "--json").splitlines()]
    return {each["pid"]: each["worker"] for each in found if each["state"] != "lost"}


def by_state(cluster: Cluster) -> dict[str, float]:
    """How many workers there are, by state."""
    found = {}
    for line in cluster.scheduler.get("/metrics")[1].splitlines():
        if line.startswith("warren_workers{"):
            labels, _, value = line.rpartition(" ")
            found[labels.split('"')[1]] = float(value)
    return found


def ended_well(service: ServiceProcess) -> None:
    service.await_exits(1, 30.0)
    assert service.exits == [0]


def test_every_task_runs_once_while_workers_leave(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note
) -> None:
    cluster = start_on_node(workers=5, slots=SLOTS, worker=[{}, LABELLED, {}, LABELLED, LABELLED], restart=False)
    wait_until(lambda: by_state(cluster).get("alive") == 5, 10, "five workers are known")
    load = cluster.stream(mixed, chunk=40, window=300, rate=math.inf)
    load.await_more(200)
    ids = worker_ids(cluster)

    cluster.workers[0].send(signal.SIGTERM)  # as Compose and Kubernetes do when a replica is taken away
    cluster.workers[1].send(signal.SIGTERM)
    load.await_more(100)
    ended_well(cluster.workers[0])
    ended_well(cluster.workers[1])

    warren(cluster, "worker", "shutdown", ids[cluster.workers[2].pid], ids[cluster.workers[3].pid])
    load.await_more(100)
    ended_well(cluster.workers[2])
    ended_well(cluster.workers[3])

    for service in cluster.workers[:4]:
        service.stop()
    load.await_more(100)
    load.enough()
    load.join(60.0)

    verdict = cluster.assert_nothing_lost()
    assert verdict.twice == 0
    assert verdict.most_runs == 1
    lost, suspects, redelivered, stale = (cluster.scheduler.metric(name) for name in COUNTED)
    assert (lost, suspects, stale) == (0, 0, 0)
    # The broker redelivers what was on its way to a consumer that is cancelled; it is dispatched anew, seen by nobody.
    assert redelivered <= 4 * SLOTS
    states = by_state(cluster)
    assert (states["alive"], states["lost"]) == (1, 0)
    note(verdict)

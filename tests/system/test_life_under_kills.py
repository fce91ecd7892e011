"""Ten thousand tasks are cancelled or replayed while services die at random moments; many more forgotten under load.

WARREN_TEST_KILLS_SEED chooses other moments, WARREN_TEST_PRUNED another number of tasks to forget.
"""

import contextlib
import itertools
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from common import TaskCancelled, call
from common.tasks import Call
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected
from tests.system.conftest import Note, StartCluster
from tests.system.history import History, kept
from tests.system.workloads import squares

SEED = os.environ.get("WARREN_TEST_KILLS_SEED", "14")
MANY = 10_000
UNFINISHED = ("scheduled", "queued", "dispatched")
PRUNED = int(os.environ.get("WARREN_TEST_PRUNED", "100_000"))
LONGEST_GAP = 3.0
"""Seconds without a single start under load, while tasks are forgotten; generous, for a busy machine."""


@contextlib.contextmanager
def kills(cluster: Cluster, count: int, longest: float) -> Iterator[None]:
    """Kill the scheduler and a worker meanwhile, again and again, each time a moment after all have been ready again.

    Args:
        cluster: whose services.
        count: how often at most.
        longest: seconds from readiness to the next time, at most.
    """
    print(f"WARREN_TEST_KILLS_SEED={SEED}")
    chance, over = random.Random(SEED), threading.Event()

    def run() -> None:
        for _ in range(count):
            if over.wait(chance.uniform(0.0, longest)):
                return
            chance.choice(cluster.workers).kill()
            cluster.scheduler.kill()
            cluster.await_ready()

    killer = threading.Thread(target=run, name="killer")
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def exits(cluster: Cluster) -> dict[str, int]:
    return {service.name: len(service.exits) for service in cluster.services}


def test_ten_thousand_are_cancelled_while_services_die(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster(workers=2, slots=50, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    client, journal = cluster.client(), cluster.journal
    keys = journal.keys(MANY)
    job = client.options(labels={"job": "1"})
    handles = job.submit_many(call("square", key, 60.0) for key in keys[: MANY // 2])
    handles += job.options(delay=3600).submit_many(call("square", key) for key in keys[MANY // 2 :])
    running = [worker.metric for worker in cluster.workers]
    wait_until(lambda: all(metric("warren_worker_running") == 50 for metric in running), 20, "the slots are taken")
    wait_until(lambda: cluster.scheduler.metric("warren_tasks") == MANY, 20, "all are stored")
    innocent = cluster.load(squares, 200, chunk=10, window=200)
    began = time.monotonic()
    with kills(cluster, 4, 0.2):
        answered = client.cancel(labels={"job": "1"}, state=UNFINISHED)
        again = client.cancel(labels={"job": "1"}, state=UNFINISHED)
    print(f"cancelled in {time.monotonic() - began:.1f} s, {len(answered)} answered, exits {exits(cluster)}")

    assert cluster.scheduler.exits
    assert set(answered.values()) == {"cancelled"}
    assert again == {}
    for handle, key in zip(handles, keys, strict=True):
        with pytest.raises(TaskCancelled):
            handle.result(timeout=20)
        journal.confirmed[handle.id] = Expected(key, "cancelled")
        journal.told[handle.id] = "cancelled"
    innocent.join()
    note(cluster.assert_nothing_lost())
    assert sum(metric("warren_worker_running") for metric in running) == 0


def test_ten_thousand_are_replayed_while_services_die(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster(workers=2, slots=50, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    client, journal = cluster.client(), cluster.journal
    keys = journal.keys(MANY)
    began = time.monotonic()
    handles = client.submit_many(call("fail", key) for key in keys)
    wait_until(lambda: all(handle.done() for handle in handles), 90, "all have failed")
    print(f"failed in {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    with kills(cluster, 4, 1.5):
        done = subprocess.run(
            [Path(sys.executable).with_name("warren"), "dead", "replay", "--task", "fail", "--json"],
            env={"WARREN_AMQP_URL": cluster.broker.url, "WARREN_NAMESPACE": cluster.namespace},
            capture_output=True,
            timeout=60,
        )
    print(f"replayed in {time.monotonic() - began:.1f} s, exits {exits(cluster)}")

    assert cluster.scheduler.exits
    assert done.returncode == 0, done.stderr
    letters = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    again = {letter["id"]: letter["replayed_as"] for letter in letters}
    assert again.keys() == {handle.id for handle in handles}
    assert len(letters) == MANY, "none is listed twice"
    wait_until(lambda: not cluster.out(), 40, "the replays are over", cluster.out)
    assert replays(cluster.store.path) == {new: old for old, new in again.items()}
    for handle, key in zip(handles, keys, strict=True):
        for id_ in (handle.id, again[handle.id]):
            journal.confirmed[id_] = Expected(key, error_kind="exception")
            journal.told[id_] = "!exception"
    note(cluster.assert_nothing_lost())
    assert min(cluster.effects.runs().values()) >= 2


def replays(path: Path) -> dict[str, str]:
    """Which task each replay repeats."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        query = "SELECT id, json_extract(options, '$.replay_of') FROM tasks WHERE options LIKE '%replay_of%'"
        return dict(connection.execute(query).fetchall())


def test_forgetting_very_many_does_not_hold_up_the_others(start_cluster: StartCluster, tmp_path: Path) -> None:
    history = History(tmp_path / "filled.db")
    history.finished("old", PRUNED)
    cluster = start_cluster(database=history.path, slots=100, scheduler={"WARREN_RESULT_TTL": "2"})
    client = cluster.client()
    work: Call[float] = Call("moment", ()).options(result_ttl=600)
    began, starts = time.monotonic(), list[float]()
    while (left := kept(history.path).get("old", 0)) and time.monotonic() < began + 90:
        handles = list(itertools.chain.from_iterable(client.submit_many([work] * 50) for _ in range(20)))
        starts += [handle.result(timeout=20) for handle in handles]
    took = time.monotonic() - began
    starts.sort()
    longest = max(after - before for before, after in itertools.pairwise(starts))
    print(f"{PRUNED} forgotten in {took:.1f} s beside {len(starts) / took:.0f} tasks/s, longest gap {longest:.3f} s")

    assert left == 0
    assert longest < LONGEST_GAP
    assert cluster.scheduler.exits == []

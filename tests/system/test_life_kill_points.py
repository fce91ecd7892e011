"""The scheduler dies at each point where it cancels, replays, purges, wakes or forgets; the others go on by themselves.

Those points have loads of their own here; the ones that every task passes are in `test_kill_points`.
"""

import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common import Client, TaskCancelled, TaskExpired, call
from common.failpoints import LIFE
from common.tasks import Call
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected
from tests.system.conftest import Note, StartCluster
from tests.system.history import History, kept
from tests.system.workloads import squares

SIGKILLED = -int(signal.SIGKILL)
UNFINISHED = ("scheduled", "queued", "dispatched")
HITS = {"canceller": 2, "dead_letters": 2, "timers": 20, "janitor": 4}
"""Amid the work: pages of a thousand, pages of two hundred, looks at the clock, batches of a thousand."""


def points(part: str) -> list[str]:
    return [point for point in LIFE if point.startswith(f"{part}.")]


def armed(point: str, folder: Path, hit: int = 0) -> dict[str, str]:
    """The environment in which `point` kills once."""
    once = folder / "once"
    once.mkdir()
    number = hit or HITS[point.partition(".")[0]]
    return {"WARREN_FAILPOINTS": f"{point}:kill:{number}", "WARREN_FAILPOINTS_ONCE": str(once)}


def known(client: Client, count: int, **which: Any) -> None:
    wait_until(lambda: len(list(client.tasks(**which))) == count, 30, f"there are {count} tasks")


def assert_killed(cluster: Cluster, point: str) -> None:
    assert cluster.scheduler.exits == [SIGKILLED], f"{point} was not reached"


def test_every_point_has_a_test() -> None:
    assert {point.partition(".")[0] for point in LIFE} == HITS.keys()


@pytest.mark.parametrize("point", points("canceller"))
def test_killed_while_cancelling(point: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    cluster = start_cluster(slots=20, scheduler=armed(point, tmp_path))
    client = cluster.client()
    journal, keys = cluster.journal, cluster.journal.keys(2500)
    job = client.options(labels={"job": "1"})
    handles = job.submit_many(call("square", key, 60.0) for key in keys[:1500])
    handles += job.options(delay=3600).submit_many(call("square", key) for key in keys[1500:])
    known(client, len(keys), labels={"job": "1"})
    running = cluster.workers[0]
    wait_until(lambda: running.metric("warren_worker_running") == 20, 10, "the slots are taken")
    innocent = cluster.load(squares, 100, chunk=10, window=100)
    answered = client.cancel(labels={"job": "1"}, state=UNFINISHED)

    assert_killed(cluster, point)
    assert set(answered.values()) == {"cancelled"}
    # What a lost answer was about is cancelled too, and by then no longer among the unfinished ones.
    assert answered.keys() <= {handle.id for handle in handles}
    assert client.cancel(labels={"job": "1"}, state=UNFINISHED) == {}
    for handle, key in zip(handles, keys, strict=True):
        with pytest.raises(TaskCancelled):
            handle.result(timeout=20)
        journal.confirmed[handle.id] = Expected(key, "cancelled")
        journal.told[handle.id] = "cancelled"
    innocent.join()
    note(cluster.assert_nothing_lost())
    assert running.metric("warren_worker_running") == 0
    runs = cluster.effects.runs()
    assert sum(runs[key] for key in keys) == 20, "only those that ran when they were cancelled"


def failed(cluster: Cluster, client: Client, keys: range, **options: Any) -> dict[str, int]:
    """The keys of tasks that have failed, by id."""
    handles = client.options(**options).submit_many(call("fail", key) for key in keys)
    wait_until(lambda: all(handle.done() for handle in handles), 30, "all have failed")
    for handle, key in zip(handles, keys, strict=True):
        cluster.journal.confirmed[handle.id] = Expected(key, error_kind="exception")
        cluster.journal.told[handle.id] = "!exception"
    return {handle.id: key for handle, key in zip(handles, keys, strict=True)}


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("point", points("dead_letters"))
def test_killed_while_replaying(point: str, hit: int, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    """Replays that fail again are dead letters as well: they are not taken for what is still to be replayed."""
    cluster = start_cluster(slots=50, scheduler=armed(point, tmp_path, hit))
    client, keys = cluster.client(), cluster.journal.keys(600)
    originals = failed(cluster, client, keys)
    letters = client.dead.replay(task="fail")

    assert_killed(cluster, point)
    again = {letter.id: letter.replayed_as for letter in letters}
    assert again.keys() == originals.keys()
    assert len(letters) == len(set(again.values())) == len(originals)
    wait_until(lambda: not cluster.out(), 20, "the replays are over", cluster.out)
    replays = {task.id: task.replay_of for task in client.tasks(task="fail") if task.replay_of}
    assert replays == {new: old for old, new in again.items()}
    assert cluster.effects.runs() == Counter(dict.fromkeys(keys, 2))
    note(cluster.assert_nothing_lost())


@pytest.mark.parametrize("point", points("dead_letters"))
def test_killed_while_purging(point: str, start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster(slots=50, scheduler=armed(point, tmp_path))
    client = cluster.client()
    doomed = failed(cluster, client, cluster.journal.keys(600), labels={"job": "1"})
    others = failed(cluster, client, cluster.journal.keys(50), labels={"job": "2"})
    purged = {letter.id for letter in client.dead.purge(labels={"job": "1"})}

    assert_killed(cluster, point)
    assert purged <= doomed.keys(), "of a lost answer nothing is left to be told"
    assert {letter.id for letter in client.dead.list()} == others.keys()
    assert cluster.store.tasks().keys() == others.keys()


@pytest.mark.parametrize("point", points("timers"))
def test_killed_while_tasks_become_due(point: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    cluster = start_cluster(slots=50, scheduler=armed(point, tmp_path))
    client, journal = cluster.client(), cluster.journal
    keys, late = journal.keys(600), journal.keys(100)
    first = time.time() + 1.5
    calls: list[Call[int]] = [Call("square", (key,)).options(run_at=first + n / 300) for n, key in enumerate(keys)]
    handles = client.submit_many(calls)
    never: list[Call[int]] = [
        Call("square", (key,)).options(queue="nobody", expires_at=first + 1 + n / 100) for n, key in enumerate(late)
    ]
    over = client.submit_many(never)
    for handle, key in zip(handles, keys, strict=True):
        journal.confirmed[handle.id] = Expected(key, key * key)
        journal.told[handle.id] = handle.result(timeout=40)
    for handle, key in zip(over, late, strict=True):
        with pytest.raises(TaskExpired):
            handle.result(timeout=40)
        journal.confirmed[handle.id] = Expected(key, "expired")
        journal.told[handle.id] = "expired"

    assert_killed(cluster, point)
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice, "a task becomes due once"
    note(verdict)


@pytest.mark.parametrize("point", points("janitor"))
def test_killed_while_forgetting(point: str, start_cluster: StartCluster, tmp_path: Path) -> None:
    history = History(tmp_path / "filled.db")
    history.scheduled("waits", 100)
    history.finished("old", 6000)
    history.finished("brief", 1500, ttl=1.0)
    history.finished("long", 300, ttl=366 * 86_400.0)
    history.finished("young", 300, ago=-3600.0)
    scheduler = armed(point, tmp_path) | {"WARREN_RESULT_TTL": "2"}
    cluster = start_cluster(database=history.path, scheduler=scheduler)
    stays = {"waits": 100, "long": 300, "young": 300}
    cluster.scheduler.await_exits(1)
    left = kept(history.path)
    assert left["old"] + left.get("brief", 0) > 1500, "it died amid the work"
    wait_until(lambda: kept(history.path) == stays, 30, "it goes on", lambda: kept(history.path))

    assert_killed(cluster, point)
    gone = Counter(id_ for id_, changes in cluster.store.endings().items() for _ in changes)
    assert {id_.partition("-")[0] for id_ in gone} <= {"old", "brief"}
    assert set(gone.values()) == {1}
    assert cluster.scheduler.metric("warren_tasks") == 100

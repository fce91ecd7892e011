"""The scheduler dies at each point where an operator moves tasks or changes limits; what was answered holds."""

from pathlib import Path

import pytest

from common import call
from common.failpoints import FLEET
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected
from tests.system.conftest import Note, StartCluster
from tests.system.test_life_kill_points import SIGKILLED, armed
from tests.system.workloads import squares

MOVED = 2500


def points(part: str) -> list[str]:
    return [point for point in FLEET if point.startswith(f"{part}.")]


def assert_killed(cluster: Cluster, point: str) -> None:
    assert cluster.scheduler.exits == [SIGKILLED], f"{point} was not reached"


def test_every_point_has_a_test() -> None:
    assert {point.partition(".")[0] for point in FLEET} == {"rearranger", "quota_keeper"}


@pytest.mark.parametrize("point", points("rearranger"))
def test_killed_while_moving(point: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    """Tasks of a queue that nobody serves are moved to one that is served, a page of a thousand at a time."""
    cluster = start_cluster(slots=20, scheduler=armed(point, tmp_path, 2))
    client, journal = cluster.client(), cluster.journal
    keys = journal.keys(MOVED)
    handles = client.options(queue="nobody").submit_many(call("square", key) for key in keys)
    wait_until(lambda: len(list(client.tasks(queue="nobody"))) == MOVED, 30, "all are stored")
    innocent = cluster.load(squares, 200, chunk=10, window=100)
    answered = client.move("default", queue="nobody")

    assert_killed(cluster, point)
    # Of a page whose answer was lost nothing is left to be moved, so it may be missing in the sum.
    assert MOVED - 1000 <= answered <= MOVED
    for handle, key in zip(handles, keys, strict=True):
        journal.confirmed[handle.id] = Expected(key, key * key)
        journal.told[handle.id] = handle.result(timeout=40)
    innocent.join()
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice, "moving is no reason to run anything again"
    note(verdict)
    assert {task.queue for task in client.tasks()} == {"default"}
    written = [change for change in client.changes() if change.what == "move"]
    assert sum(int(change.detail.split()[0]) for change in written) == MOVED, "each task is written down once"


@pytest.mark.parametrize("point", points("quota_keeper"))
def test_killed_while_pausing(point: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    cluster = start_cluster(slots=20, scheduler=armed(point, tmp_path, 1))
    client, journal = cluster.client(), cluster.journal
    assert client.pause("default").paused

    assert_killed(cluster, point)
    key = journal.keys(1)[0]
    held = client.submit("square", key)
    wait_until(lambda: "paused" in (held.status().note), 20, "its status says why it waits", held.status)
    assert not cluster.effects.runs()
    assert not client.resume("default").paused
    journal.confirmed[held.id] = Expected(key, key * key)
    journal.told[held.id] = held.result(timeout=20)
    note(cluster.assert_nothing_lost())
    assert [change.what for change in client.changes()] == ["quota", "quota"], "once each, though asked twice"

"""What clients can do with their tasks, with real services that are killed while they are asked."""

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common import AsyncClient, Client, Progress, TaskCancelled, TaskStatus, call
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.system.conftest import StartCluster

UNFINISHED = ("scheduled", "queued", "dispatched")
MANY = 1000


def warren(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    """What `warren ... --json` prints, by line."""
    done = subprocess.run(
        [Path(sys.executable).with_name("warren"), *arguments, "--json"],
        env={"WARREN_AMQP_URL": cluster.broker.url, "WARREN_NAMESPACE": cluster.namespace},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def settled(client: Client, count: int, **which: Any) -> None:
    """Wait until the scheduler knows so many of these tasks."""
    wait_until(lambda: sum(1 for _ in client.tasks(**which)) == count, 20, f"there are {count} tasks")


def test_a_running_task_is_cancelled_while_the_scheduler_is_killed(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    client = cluster.client()
    handle = client.submit("square", 1, 60.0)
    wait_until(lambda: handle.status().state == "running", 10, "it runs")
    assert cluster.workers[0].metric("warren_worker_running") == 1
    cluster.scheduler.kill()

    assert handle.cancel(timeout=40) == "cancelled"
    with pytest.raises(TaskCancelled):
        handle.result(timeout=20)
    wait_until(lambda: cluster.workers[0].metric("warren_worker_running") == 0, 20, "its slot is free")


def test_many_are_cancelled_in_one_go_and_stay_so(start_cluster: StartCluster) -> None:
    cluster = start_cluster(slots=4)
    client = cluster.client()
    job = client.options(labels={"job": "1"}).submit_many(call("square", key, 60.0) for key in range(MANY))
    later = client.options(labels={"job": "1"}, delay=3600).submit_many(call("square", key) for key in range(MANY))
    other = client.submit("square", MANY)
    settled(client, 2 * MANY, labels={"job": "1"})
    states = client.cancel(labels={"job": "1"}, state=UNFINISHED)

    assert states == dict.fromkeys((handle.id for handle in (*job, *later)), "cancelled")
    assert other.result(timeout=20) == MANY**2, "the slots are free again"
    for service in cluster.services:
        service.kill()
    cluster.await_ready()
    assert client.cancel(labels={"job": "1"}, state=UNFINISHED) == {}
    for handle in (*job, *later):
        with pytest.raises(TaskCancelled):
            handle.result(timeout=20)


async def test_progress_is_followed_to_the_end_while_the_scheduler_is_killed(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    async with AsyncClient(cluster.broker.url, namespace=cluster.namespace) as client:
        handle = await client.submit("count_up", 1, 120, 0.1)  # longer than a slow machine needs for a new scheduler
        seen: list[TaskStatus | Progress] = []
        async for update in handle.updates(timeout=60, interval=0.2):
            if isinstance(update, Progress) and not cluster.scheduler.exits:
                cluster.scheduler.kill()
            seen.append(update)

    done = [update.done for update in seen if isinstance(update, Progress)]
    assert isinstance(seen[-1], TaskStatus)
    assert seen[-1].state == "succeeded"
    assert len(done) > 3, "it was followed before and after"
    assert done == sorted(done)


def test_a_replay_that_is_cut_off_is_finished_without_a_second_one(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    client = cluster.client()
    failed = client.options(queue="default").submit_many(call("fail", key) for key in range(MANY))
    settled(client, MANY, state="failed")
    seen = Counter[str]()

    def kill_once(page: Any) -> None:
        if not seen:
            threading.Thread(target=cluster.scheduler.kill).start()
        seen.update(letter.id for letter in page)

    client.dead.replay(task="fail", until=_now(client), on_page=kill_once)
    again = {letter.id: letter.replayed_as for letter in client.dead.replay(*(handle.id for handle in failed))}

    assert again.keys() == {handle.id for handle in failed}
    replays = [task for task in client.tasks(task="fail") if task.replay_of]
    assert len(replays) == MANY
    assert {task.replay_of: task.id for task in replays} == again


def _now(client: Client) -> float:
    """The time by the scheduler's clock at which the newest task was submitted, and a little more."""
    return next(client.tasks(limit=1)).submitted_at + 0.001


def test_the_command_line_sees_what_the_client_does(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    client = cluster.client()
    (one,) = warren(cluster, "submit", "count_up", "1", "10", "0.1", "--label", "a=1", "--key", "anna")
    watched = warren(cluster, "watch", one["id"], "--interval", "0.2")
    later = client.options(delay=3600, labels={"a": "2"}).submit("square", 2)
    failed = client.submit("fail", 3)
    settled(client, 3)
    wait_until(failed.done, 10, "it has failed")

    assert watched[-1]["state"] == "succeeded"
    assert any("progress" in line for line in watched)
    assert [line["id"] for line in warren(cluster, "tasks", "list")] == [failed.id, later.id, one["id"]]
    assert [line["id"] for line in warren(cluster, "tasks", "list", "--label", "a=1")] == [one["id"]]
    assert [line["id"] for line in warren(cluster, "tasks", "list", "--state", "scheduled")] == [later.id]
    assert [line["state"] for line in warren(cluster, "cancel", later.id, failed.id)] == ["cancelled", "failed"]
    (letter,) = warren(cluster, "dead", "list", "--reason", "exception")
    assert (letter["id"], letter["task"]) == (failed.id, "fail")
    (shown,) = warren(cluster, "dead", "show", failed.id)
    assert "3" in shown["payload"]
    (replayed,) = warren(cluster, "dead", "replay", failed.id)
    assert client.handle(replayed["replayed_as"]).status().replay_of == failed.id
    assert [letter["id"] for letter in warren(cluster, "dead", "purge", failed.id)] == [failed.id]

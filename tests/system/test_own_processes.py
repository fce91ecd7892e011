"""Task functions with processes and threads of their own: they end those, and neither the worker nor each other."""

import os
import signal

from common.lifecycle import EXIT_OK
from tests.support.conditions import wait_until
from tests.system.conftest import StartCluster

TASKS = "tests.system.forking_tasks"
SIGTERM = -15
LONG = 3.0


def test_a_forked_process_can_be_terminated_and_the_worker_goes_on(start_cluster: StartCluster) -> None:
    cluster = start_cluster(tasks=TASKS, restart=False)
    client = cluster.client()
    for where in ("on_loop", "in_thread", "in_process"):
        assert client.submit(f"end_one_{where}").result(timeout=20) == SIGTERM, where
    for where in ("double_in_pool", "double_in_pool_in_process"):
        for _ in range(3):
            assert client.submit(where).result(timeout=20) == [0, 2, 4, 6], where
    (worker,) = cluster.workers
    assert worker.exits == []
    assert "received a signal" not in worker.said()
    assert worker.stop() == EXIT_OK


def test_a_worker_ends_whatever_its_tasks_have_left_behind(start_cluster: StartCluster) -> None:
    cluster = start_cluster(tasks=TASKS, restart=False)
    left = cluster.client().submit("leave_behind").result(timeout=20)
    (worker,) = cluster.workers
    try:
        worker.terminate()
        worker.await_exits(1, timeout=20)
    finally:
        os.kill(left, signal.SIGKILL)  # nobody's child now: such a process is its starter's to end
    assert worker.exits == [EXIT_OK]
    assert "do not end, the process does" in worker.said()


def test_what_runs_again_after_its_worker_died_has_the_same_environment(start_cluster: StartCluster) -> None:
    """It runs in another process then; it must not fail for good because of that."""
    cluster = start_cluster(
        tasks=TASKS, worker={"SHOP_DATABASE_URL": "postgres://shop"}, scheduler={"WARREN_RESCUE_INTERVAL": "1"}
    )
    client = cluster.client()
    handles = [client.submit("read_environment", LONG) for _ in range(3)]
    wait_until(lambda: all(handle.status().state == "running" for handle in handles), 20, "they run")
    cluster.workers[0].kill()
    assert [handle.result(timeout=60) for handle in handles] == ["postgres://shop"] * 3
    assert [handle.status().attempt for handle in handles] == [2, 2, 2], "they ran again"

"""Processes die at each named point of the hot paths, under load, and nothing is lost."""

import signal
import time
from pathlib import Path

import msgspec
import pytest

from common.failpoints import PATH
from tests.support.conditions import wait_until
from tests.support.journal import outcomes
from tests.support.services import ServiceProcess
from tests.system.conftest import Note, StartCluster
from tests.system.submitter import Confirmed, submitter_process
from tests.system.workloads import naps, squares

TASKS = 240
FLOW = {"chunk": 10, "window": 60}
SIGKILLED = -int(signal.SIGKILL)

# At which hit to fire: late enough to be amid the load, early enough to be reached.
HITS = {"store.after_commit": 12, "worker.before_start": 40, "worker.after_start": 40}
USUAL_HIT = 4

OF_SCHEDULER = [name for name in PATH if not name.startswith("worker.")]
OF_WORKER = [name for name in PATH if name.startswith("worker.")]


def armed(point: str, action: str, folder: Path) -> dict[str, str]:
    """The environment in which `point` fires once, whatever is started again."""
    once = folder / "once"
    once.mkdir()
    return {
        "WARREN_FAILPOINTS": f"{point}:{action}:{HITS.get(point, USUAL_HIT)}",
        "WARREN_FAILPOINTS_ONCE": str(once),
    }


def fired(point: str, folder: Path) -> bool:
    return (folder / "once" / point).exists()


@pytest.mark.parametrize("point", OF_SCHEDULER)
def test_scheduler_killed(point: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    cluster = start_cluster(scheduler=armed(point, "kill", tmp_path))
    cluster.load(squares, TASKS, **FLOW).join()

    assert cluster.scheduler.exits == [SIGKILLED], f"{point} was not reached"
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice, "with the worker alive nothing has to run twice"
    attempts = {task.attempt for task in cluster.store.tasks().values()}
    assert attempts == {1}, "what was out is published again under the same lease, and not found to be lost"
    note(verdict)


@pytest.mark.parametrize("point", OF_WORKER)
def test_worker_killed(point: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    cluster = start_cluster(workers=2, worker=armed(point, "kill", tmp_path))
    cluster.load(squares, TASKS, **FLOW).join()

    assert [code for worker in cluster.workers for code in worker.exits] == [SIGKILLED], f"{point} was not reached"
    verdict = cluster.assert_nothing_lost()
    assert verdict.most_runs <= 2, "one death, at most one more run"
    note(verdict)


STEPS_THAT_FAIL = (
    "intake.after_commit:raise",
    "dispatcher.before_publish:raise",
    "dispatcher.after_publish:timeout",
    "store.after_commit:timeout",
    "collector.before_commit:raise",
    "collector.after_commit:timeout",
    "worker.before_reply:raise",
    "worker.after_reply:timeout",
)
ALL_STEPS = [
    pytest.param(step, marks=[] if step in STEPS_THAT_FAIL else pytest.mark.chaos)
    for step in (f"{point}:{action}" for point in PATH for action in ("raise", "timeout"))
    if not step.startswith(("worker.before_start", "worker.after_start"))  # those are faults of the task
]


@pytest.mark.parametrize("step", ALL_STEPS)
def test_step_fails(step: str, start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    """The step raises, or was done and says that it was not (`timeout`)."""
    point, action = step.split(":")
    service = "worker" if point.startswith("worker.") else "scheduler"
    cluster = start_cluster(**{service: armed(point, action, tmp_path)})
    cluster.load(squares, TASKS, **FLOW).join()

    assert fired(point, tmp_path), f"{point} was not reached"
    note(cluster.assert_nothing_lost(allowed=[f"failpoint {point}"]))


def test_worker_killed_mid_task(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster(workers=2)
    load = cluster.load(naps(0.3), 120, **FLOW)
    for worker in cluster.workers:
        load.await_more(10)
        worker.kill()
    load.join()

    verdict = cluster.assert_nothing_lost()
    assert verdict.twice, "the tasks that ran in the killed workers have to run again"
    assert verdict.most_runs <= 3
    note(verdict)


def test_every_service_killed_again_and_again(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster(workers=2, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    load = cluster.load(squares, 1000, **FLOW)
    victims: list[ServiceProcess] = [cluster.workers[0], cluster.scheduler, cluster.workers[1], cluster.scheduler]
    for victim in victims:
        load.await_more(50)
        victim.kill()
    load.join()
    note(cluster.assert_nothing_lost())


def test_client_killed_after_the_confirm(start_cluster: StartCluster, note: Note, tmp_path: Path) -> None:
    cluster = start_cluster()
    confirmed = tmp_path / "confirmed"
    with submitter_process(cluster.broker.url, cluster.namespace, confirmed) as process:
        wait_until(lambda: confirmed.exists() and len(confirmed.read_bytes().splitlines()) >= 20, 20, "confirms come")
        process.kill()
    for line in confirmed.read_bytes().split(b"\n")[:-1]:
        chunk = msgspec.json.decode(line, type=Confirmed)
        for task_id, key in zip(chunk.ids, chunk.keys, strict=True):
            cluster.journal.confirmed[task_id] = squares(key)[1]
    client = cluster.client()
    handles = [client.handle(task_id) for task_id in cluster.journal.confirmed]
    cluster.journal.told.update(outcomes(handles, time.monotonic() + 30))

    verdict = cluster.assert_nothing_lost()
    assert verdict.tasks >= 200
    assert not verdict.twice
    note(verdict)


def test_scheduler_down_while_submitting(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster()
    cluster.scheduler.stop(signal.SIGKILL)
    load = cluster.load(squares, TASKS, window=TASKS)
    wait_until(lambda: load.confirmed == TASKS, 20, "all is confirmed without a scheduler")
    assert not load.finished
    cluster.scheduler.start()
    load.join()

    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice
    note(verdict)


def test_rolling_restart(start_cluster: StartCluster, note: Note) -> None:
    """Every service is asked to end (SIGTERM) and started again: nothing is lost, and nothing runs twice."""
    cluster = start_cluster(workers=2)
    load = cluster.load(squares, 1500, **FLOW)
    for service in (*cluster.workers, cluster.scheduler, *cluster.workers):
        load.await_more(50)
        assert service.stop(signal.SIGTERM) == 0, f"{service.name} drains"
        service.start()
    load.join()

    # Some may have a second attempt: what a quorum queue hands out while it is told to cancel never reaches the worker,
    # and is marked as redelivered all the same.
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice
    note(verdict)

"""A task that kills whatever runs it, among a thousand innocent ones in the same bundles."""

import pytest

from common.tasks import Call
from tests.support.journal import Expected
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import squares

INNOCENT = 1000
MAX_CRASHES = 2
RUNS = MAX_CRASHES + 2
POISONS = ("kill_process", "segfault", "exit_at_once", "kill_worker")


@pytest.mark.parametrize("poison", POISONS)
def test_poison(poison: str, start_cluster: StartCluster, note: Note) -> None:
    """It fails with `crashed` after few runs, and no innocent task pays for it."""
    at = INNOCENT // 4

    def make(key: int) -> tuple[Call[int], Expected]:
        return (Call(poison, (key,)), Expected(key, error_kind="crashed")) if key == at else squares(key)

    cluster = start_cluster(
        workers=2, scheduler={"WARREN_MAX_CRASHES": str(MAX_CRASHES), "WARREN_RESCUE_INTERVAL": "1"}
    )
    cluster.load(make, INNOCENT + 1, chunk=100, window=500).join(60)

    verdict = cluster.assert_nothing_lost()
    assert verdict.succeeded == INNOCENT
    runs = cluster.effects.runs()[at]
    assert MAX_CRASHES <= runs <= RUNS, f"it ran {runs} times"
    assert sum(len(worker.exits) for worker in cluster.workers) <= RUNS, "each run may cost one worker at most"
    (killer,) = [task for task in cluster.store.tasks().values() if task.task == poison]
    assert killer.error is not None
    assert any(word in killer.error for word in ("SIGKILL", "SIGSEGV", "exit code 0", "died")), killer.error
    note(verdict)


def test_a_task_that_crashes_a_part_of_its_worker(start_cluster: StartCluster, note: Note) -> None:
    """A worker that ends because of its own fault counts as dead, although it ends in good order."""
    at = 30

    def make(key: int) -> tuple[Call[int], Expected]:
        return (Call("crash_service", (key,)), Expected(key, error_kind="exception")) if key == at else squares(key)

    cluster = start_cluster(workers=2, scheduler={"WARREN_DEAD_AFTER": "4", "WARREN_RESCUE_INTERVAL": "1"})
    cluster.load(make, 100, chunk=50, window=100).join(60)

    verdict = cluster.assert_nothing_lost(allowed=("a part crashed",))
    assert verdict.succeeded == 99
    assert cluster.effects.runs()[at] == 2, "once beside others, once in a process of its own"
    note(verdict)


def test_many_poisons(start_cluster: StartCluster, note: Note) -> None:
    """Five different killers at the same time convict nobody else."""
    killers = dict(zip(range(40, 240, 40), (*POISONS, POISONS[0]), strict=True))

    def make(key: int) -> tuple[Call[int], Expected]:
        if key in killers:
            return Call(killers[key], (key,)), Expected(key, error_kind="crashed")
        return squares(key)

    cluster = start_cluster(workers=2, scheduler={"WARREN_RESCUE_INTERVAL": "1"})
    cluster.load(make, 300, chunk=50, window=300).join(90)

    verdict = cluster.assert_nothing_lost()
    assert verdict.succeeded == 300 - len(killers)
    runs = cluster.effects.runs()
    assert max(runs[key] for key in killers) <= RUNS + 1
    note(verdict)

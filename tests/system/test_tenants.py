"""A small tenant beside a large one, on a real broker and real workers."""

from __future__ import annotations

import contextlib
import sqlite3
from statistics import median

from common.tasks import Call
from tests.support.tenants import TASKS, measure
from tests.system.conftest import StartCluster


def test_a_small_tenant_has_its_results_soon_beside_a_backlog(start_cluster: StartCluster) -> None:
    """The backlog has no key, so that a tenth of a second of it is in the broker: five of the small tenant's run times.

    What it is beside the idle system is in docs/scheduling.md; here, on a machine that may be busy, it is only bounded.
    """
    cluster = start_cluster(workers=2, slots=5, tasks=TASKS, restart=False)
    tenancy = measure(cluster.client, 0.02, backlog=6000, tries=10, key=None)
    print(f"alone {median(tenancy.alone.turnaround):.3f} s, beside {median(tenancy.beside.turnaround):.3f} s")
    assert tenancy.left > 0
    assert median(tenancy.beside.waited) < median(tenancy.alone.waited) + 0.06


def test_nothing_is_lost_when_a_worker_dies_that_was_sent_tasks_by_express(start_cluster: StartCluster) -> None:
    cluster = start_cluster(workers=2, slots=5, tasks=TASKS)
    client = cluster.client()
    work: Call[tuple[float, float]] = Call("tenant.work", (0.01,))
    client.submit_many([work.options(key="large") for _ in range(6000)])
    handles = []
    for number in range(30):
        if number == 10:
            cluster.workers[0].pause()  # so that it dies with what it was sent
        if number == 15:
            cluster.workers[0].kill()
        handles += client.submit_many([work.options(key=f"small-{number}") for _ in range(10)])
    spans = [handle.result(timeout=60.0) for handle in handles]
    assert all(ended > began for began, ended in spans)
    with contextlib.closing(sqlite3.connect(cluster.store.path)) as store:
        ((sent,),) = store.execute("SELECT count(*) FROM tasks WHERE target IS NOT NULL").fetchall()
    assert sent > 20, "they went by express"

"""What Prometheus is told is what is in the store, after a load in which something goes wrong."""

import contextlib
import re
import sqlite3
from collections import Counter
from typing import Any

from common import call
from tests.support.conditions import wait_until
from tests.system.conftest import StartCluster

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def test_counters_agree_with_the_store(start_cluster: StartCluster) -> None:
    cluster = start_cluster(workers=2)
    with cluster.client(max_task_bytes=1_000_000) as client:
        handles = client.submit_many(
            [
                *(call("square", key) for key in range(200)),
                *(call("square_in_thread", key) for key in range(20)),
                *(call("fail", key) for key in range(10)),
                *(call("nobody_knows_it", key).options(expires_in=0.5) for key in range(5)),
                call("square", "x" * 300_000),  # above the scheduler's limit
                call("square", key=7, wrong=True),
            ]
        )
        late = client.options(delay=3600).submit("square", 1)
        assert late.cancel() == "cancelled"
        wait_until(lambda: all(handle.done() for handle in client.as_completed(handles)), 60, "all is over")

        def scraped() -> dict[str, Counter[str]]:
            found: dict[str, Counter[str]] = {}
            for line in cluster.scheduler.get("/metrics")[1].splitlines():
                if (sample := _SAMPLE.match(line)) is not None:
                    status = re.search(r'status="(\w+)"', sample[2] or "")
                    key = status[1] if status else ""
                    found.setdefault(sample[1], Counter())[key] += float(sample[3])  # type: ignore[assignment]
            return found

        stored = _rows(cluster.store.path, "SELECT state, count(*) FROM tasks GROUP BY state")
        metrics = scraped()
        assert metrics["warren_tasks_completed_total"] == stored
        assert stored.keys() == {"succeeded", "failed", "expired", "cancelled"}
        assert metrics["warren_tasks_submitted_total"][""] == sum(stored.values()) == len(handles) + 1
        dispatched = metrics["warren_tasks_dispatched_total"][""]
        assert (
            metrics["warren_task_queue_wait_seconds_count"][""] == metrics["warren_bundle_tasks_sum"][""] == dispatched
        )
        assert dispatched >= 231, "each that ran, at least once"
        assert metrics["warren_task_total_seconds_count"][""] == stored["succeeded"] + stored["failed"] - 1
        assert metrics["warren_parked_total"][""] == 1
        assert metrics["warren_intake_batch_tasks_sum"][""] == len(handles) + 1
        assert metrics["warren_live_workers"][""] == 2
        assert sum(metrics["warren_tasks"].values()) == 0
        assert metrics["warren_store_commit_seconds_count"][""] > 0
        done = sum(worker.metric("warren_worker_completed_total") for worker in cluster.workers)
        assert done == 231, "a wrong argument is an outcome, too"


def _rows(path: Any, statement: str) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as store:
        return dict(store.execute(statement).fetchall())

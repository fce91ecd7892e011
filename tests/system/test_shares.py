"""Queues that share workers share them by weight, on a real broker and real workers."""

from __future__ import annotations

import os

import pytest

from tests.support.shares import Contest, environment, measure
from tests.system.conftest import StartCluster

SECONDS = float(os.environ.get("WARREN_TEST_SHARES", "8"))
OFF = 0.04
"""By what part of its share a queue may miss it. In so short a time one task more or less is 2 % of the least share."""


@pytest.mark.parametrize(
    "contest",
    [
        Contest({"a": 3.0, "b": 2.0, "c": 1.0}, 5, dict.fromkeys("abc", 0.03)),
        Contest({"a": 1.0, "b": 1.0}, 2, {"a": 0.02, "b": 0.1}),
    ],
    ids=str,
)
def test_shares_match_the_weights_whatever_the_worker_takes_first(
    contest: Contest, start_cluster: StartCluster
) -> None:  # fmt: skip
    """Before places were given in turns, they were 44.7 : 38.5 : 16.8 and 31.8 : 68.2."""
    cluster = start_cluster(
        workers=contest.workers,
        slots=contest.slots,
        environment=environment(contest),
        tasks="tests.support.share_tasks",
        restart=False,
    )
    shared = measure(cluster, contest, warm_up=2.0, seconds=SECONDS)
    print({queue: round(100 * share, 1) for queue, share in shared.shares.items()}, f"busy {shared.busy:.0%}")
    assert not shared.empty
    assert shared.off < OFF

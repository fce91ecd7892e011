"""Measures how queues share the slots of real workers; for the system test and `tests.bench.scheduling --shares`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor

from common.tasks import Call
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until

SPARE = 1.5
"""How much more each queue is given than its share, so that none runs empty."""


@dataclass(frozen=True)
class Contest:
    """Queues that want all they can have, and the workers that serve them all.

    Attributes:
        weights: by queue.
        slots: of each worker.
        runs: seconds of a task by queue.
        workers: how many.
    """

    weights: Mapping[str, float]
    slots: int
    runs: Mapping[str, float]
    workers: int = 1

    @property
    def due(self) -> dict[str, float]:
        """The share of the slots' time that each queue should have."""
        whole = sum(self.weights.values())
        return {queue: weight / whole for queue, weight in self.weights.items()}

    def enough(self, seconds: float) -> dict[str, int]:
        """How many tasks each queue needs to have some left after so many seconds."""
        capacity = SPARE * self.workers * self.slots * seconds
        return {queue: int(capacity * due / self.runs[queue]) + 50 for queue, due in self.due.items()}

    def __str__(self) -> str:
        weights = ":".join(f"{weight:g}" for weight in self.weights.values())
        runs = "/".join(f"{run * 1000:g}" for run in dict.fromkeys(self.runs.values()))
        return f"{weights}, {self.workers} x {self.slots} slots, {runs} ms"


CONTESTS = (
    Contest({"a": 3.0, "b": 2.0, "c": 1.0}, 2, dict.fromkeys("abc", 0.05)),
    Contest({"a": 3.0, "b": 2.0, "c": 1.0}, 5, dict.fromkeys("abc", 0.03)),
    Contest({"a": 3.0, "b": 2.0, "c": 1.0}, 4, dict.fromkeys("abc", 0.02), workers=2),
    Contest({"a": 10.0, "b": 1.0}, 3, dict.fromkeys("ab", 0.04)),
    Contest({"a": 1.0, "b": 1.0}, 2, {"a": 0.02, "b": 0.1}),
)


@dataclass
class Shared:
    """How it went.

    Attributes:
        seconds: how long it was measured.
        runs: how many tasks ended meanwhile, by queue.
        used: for how many seconds they had a slot.
        busy: the part of the slots' time that they had together.
        empty: the queues that ran out of tasks; then nothing else counts.
    """

    due: Mapping[str, float]
    seconds: float
    runs: Counter[str] = field(default_factory=Counter)
    used: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0
    empty: list[str] = field(default_factory=list)

    @property
    def shares(self) -> dict[str, float]:
        """The part that each queue had of the time that was used."""
        whole = sum(self.used.values())
        return {queue: each / whole for queue, each in self.used.items()}

    @property
    def off(self) -> float:
        """By what part of its share the queue that is furthest off has missed it."""
        return max(abs(share / self.due[queue] - 1) for queue, share in self.shares.items())


def environment(contest: Contest) -> dict[str, str]:
    """What the workers of a cluster have to be told."""
    return {"WARREN_QUEUES": ",".join(contest.weights)}


def measure(cluster: Cluster, contest: Contest, *, warm_up: float, seconds: float) -> Shared:
    """Give each queue of a cluster that was started with `environment` more than it can do, and look what it did."""
    client = cluster.client()
    for queue, weight in contest.weights.items():
        client.set_quota("queue", queue, weight=weight)
    submitted = contest.enough(warm_up + seconds)
    began = time.time()
    for queue, count in submitted.items():
        run = contest.runs[queue]
        calls: list[Call[None]] = [Call(f"hold_{queue}", (queue, run)).options(queue=queue) for _ in range(count)]
        client.submit_many(calls)
    names = set(contest.weights)
    wait_until(lambda: {each.what for each in cluster.effects.all()} >= names, 30.0, "all queues have begun")
    since = time.time() + warm_up
    print(f"all began after {time.time() - began:.1f} s")
    time.sleep(warm_up + seconds)
    ended = cluster.effects.all()
    shared = Shared(contest.due, seconds, used=dict.fromkeys(contest.weights, 0.0))
    whole = Counter(each.what for each in ended)
    shared.empty = [queue for queue, count in submitted.items() if whole[queue] >= count]
    for each in ended:
        if since <= each.at < since + seconds:
            shared.runs[each.what] += 1
            shared.used[each.what] += each.value
    for queue in contest.weights:
        by_second = Counter(floor(each.at - since) for each in ended if each.what == queue)
        print(queue, *(by_second[second] for second in range(-int(warm_up), int(seconds))))
    shared.busy = sum(shared.used.values()) / (contest.workers * contest.slots * seconds)
    return shared

"""Measures how long ten tasks of a small tenant take on real workers, alone and beside another tenant's backlog.

For the system test and `tests.bench.scheduling --tenant`. The workers load `tests.support.tenant_tasks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median

from common import Client
from common.tasks import Call

TASKS = "tests.support.tenant_tasks"
FEW = 10
_CHUNK = 10_000
_LOOK = 1.0
"""Seconds between two looks at how much is queued."""


@dataclass
class Tries:
    """How it went, try by try.

    Attributes:
        waited: seconds from the submission to the start of a task, the mean of ten.
        turnaround: to its end.
        finished: until the last of the ten results was with the client.
    """

    waited: list[float] = field(default_factory=list)
    turnaround: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)


@dataclass
class Tenancy:
    """The small tenant alone, and beside the large one.

    Attributes:
        left: how many tasks of the large one still waited at the end.
        rate: how many tasks a second finished beside.
    """

    alone: Tries
    beside: Tries
    left: int
    rate: float

    @property
    def ratio(self) -> float:
        """The median turnaround beside the large one, in those of the idle system."""
        return median(self.beside.turnaround) / median(self.alone.turnaround)


def measure(
    connect: Callable[[], Client],
    run: float,
    *,
    backlog: int,
    tries: int,
    key: str | None = "large",
    apart: float = 0.3,
) -> Tenancy:
    """Ten tasks of `run` seconds again and again, first on an idle system, then beside `backlog` tasks of another key.

    Args:
        connect: makes a client.
        run: how long each task of both tenants holds a slot.
        backlog: how many tasks the large tenant has.
        tries: how often the ten are submitted on either.
        key: that of the large tenant.
        apart: seconds from the end of a try to the next one.
    """
    small = connect()
    _attempt(Tries(), small, run)
    alone, beside = Tries(), Tries()
    for _ in range(tries):
        time.sleep(apart)
        _attempt(alone, small, run)
    large = connect()
    for first in range(0, backlog, _CHUNK):
        large.submit_many(_calls(key, run, min(_CHUNK, backlog - first)))
    before = _await_stored(small)
    since = time.monotonic()
    for _ in range(tries):
        time.sleep(apart)
        _attempt(beside, small, run)
    left = _queued(small)
    return Tenancy(alone, beside, left, (before - left) / (time.monotonic() - since))


def _calls(key: str | None, run: float, count: int) -> list[Call[tuple[float, float]]]:
    call: Call[tuple[float, float]] = Call("tenant.work", (run,))
    return [call.options(key=key) for _ in range(count)]


def _attempt(tries: Tries, client: Client, run: float) -> None:
    submitted = time.time()
    handles = client.submit_many(_calls("small", run, FEW))
    spans = [handle.result(timeout=120.0) for handle in handles]
    tries.finished.append(time.time() - submitted)
    tries.waited.append(mean(began - submitted for began, _ in spans))
    tries.turnaround.append(mean(ended - submitted for _, ended in spans))


def _await_stored(client: Client) -> int:
    """How much is queued when that gets less: all of it is stored, and as much is out as ever."""
    before = 0
    while (queued := _queued(client)) >= before:
        before = queued
        time.sleep(_LOOK)
    return queued


def _queued(client: Client) -> int:
    return sum(queue.queued for queue in client.queues())

"""Scenarios on a simulated fleet, and the same on consumers that compete for one queue of a broker.

Used by the tests and by `python -m tests.bench.scheduling`, which prints the tables of docs/scheduling.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import mean

from tests.support.fleet import PATH, START, Fleet, of

SHORT, LONG = 0.01, 10.0
MACHINES = ((4, 1.0), (4, 0.5), (4, 1.0))
"""Slots and speed of two fast workers and a slow one."""
CAPACITY = sum(slots * speed for slots, speed in MACHINES)


@dataclass
class Waits:
    """How it went for ten tasks of a small tenant, beside another's backlog or alone; means over several tries.

    Attributes:
        waited: seconds from submission to start.
        turnaround: seconds from submission to end.
    """

    waited: float
    turnaround: float


def small_tenant(run: float, *, backlog: int, slots: int = 10, tries: int = 20) -> Waits:
    """Ten tasks of a tenant while another has `backlog` tasks queued; run times vary by half around `run` seconds."""
    dice = Random(1)

    def drawn(number: int) -> list[float]:
        return [run * dice.uniform(0.5, 1.5) for _ in range(number)]

    fleet = Fleet()
    for half in (slots // 2, slots - slots // 2):
        fleet.worker(half)
    if backlog:
        fleet.submit(of(key="large"), *drawn(backlog))
    waited, turnaround = [], []
    at = max(0.5, 5 * run)
    for _ in range(tries):
        fleet.run(at)
        jobs = fleet.submit(of(key="small"), *drawn(10))
        fleet.run_until(lambda jobs=jobs: all(job.ended for job in jobs))  # type: ignore[misc]
        waited += [job.waited for job in jobs]
        turnaround += [job.ended - job.submitted for job in jobs]
        at = fleet.now - START + max(0.1, 3 * run) * dice.uniform(1.0, 2.0)
    return Waits(mean(waited), mean(turnaround))


@dataclass
class Mix:
    """How a mix of short and long tasks went.

    Attributes:
        makespan: seconds until all had ended.
        ideal: a bound that no assignment is below: all slots busy all the time.
        short: of the short tasks, seconds from submission to start, in order.
        long: of the long ones.
    """

    makespan: float
    ideal: float
    short: list[float]
    long: list[float]

    @property
    def over(self) -> float:
        """By what share it was longer than the bound."""
        return self.makespan / self.ideal - 1


Arrivals = Sequence[tuple[float, float]]
"""(when, how long it runs on a fast worker), in seconds, in order."""


def due(arrivals: Arrivals, elapsed: float, first: int) -> range:
    """Which tasks have come by now.

    Args:
        arrivals: all tasks.
        elapsed: seconds since the start.
        first: the first that was not there before.
    """
    return range(first, bisect_right(arrivals, elapsed, lo=first, key=lambda arrival: arrival[0]))


def all_at_once(short: int, long: int) -> Arrivals:
    """All tasks are there at the start, in random order."""
    runs = [SHORT] * short + [LONG] * long
    Random(2).shuffle(runs)
    return [(0.0, run) for run in runs]


def over_time(seconds: float, load: float) -> Arrivals:
    """Tasks come at random, half of the work in short and half in long ones, `load` of the capacity in all."""
    dice = Random(3)
    found: list[tuple[float, float]] = []
    for run in (SHORT, LONG):
        at = 0.0
        while (at := at + dice.expovariate(load * CAPACITY / 2 / run)) < seconds:
            found.append((at, run))
    return sorted(found)


def with_warren(arrivals: Arrivals, key: Callable[[float], str] = lambda run: "") -> Mix:
    """The mix on a simulated fleet.

    Args:
        arrivals: the tasks.
        key: the fairness key by run time.
    """
    fleet = Fleet()
    for slots, speed in MACHINES:
        fleet.worker(slots, speed=speed)
    for at, run in arrivals:
        fleet.after(at, lambda run=run: fleet.submit(of(key=key(run), task=f"t{run}"), run))  # type: ignore[misc]
    fleet.run_until(lambda: len(fleet.done) == len(arrivals))
    waits = [(job.run, job.waited) for job in fleet.done]
    return _mix(arrivals, fleet.now - START, waits)


def with_competing_consumers(arrivals: Arrivals, prefetch: int) -> Mix:
    """The mix on consumers of one queue: the broker gives each up to `prefetch` messages a slot, in turns.

    A message that is acked is replaced after a path there and back. That is what task systems do whose workers
    consume from the broker's backlog.
    """
    queue: deque[tuple[float, float]] = deque()
    held: list[deque[tuple[float, float]]] = [deque() for _ in MACHINES]
    out, busy = [0] * len(MACHINES), [0] * len(MACHINES)
    events: list[tuple[float, int, Callable[[], None]]] = []
    serial = count()
    waits: list[tuple[float, float]] = []
    now, turn = 0.0, 0

    def after(seconds: float, then: Callable[[], None]) -> None:
        heappush(events, (now + seconds, next(serial), then))

    def deliver() -> None:
        nonlocal turn
        full = 0
        while queue and full < len(MACHINES):
            which = turn = (turn + 1) % len(MACHINES)
            if out[which] >= prefetch * MACHINES[which][0]:
                full += 1
                continue
            full = 0
            out[which] += 1
            task = queue.popleft()
            after(PATH, lambda which=which, task=task: arrive(which, task))  # type: ignore[misc]

    def arrive(which: int, task: tuple[float, float]) -> None:
        held[which].append(task)
        begin(which)

    def begin(which: int) -> None:
        slots, speed = MACHINES[which]
        while held[which] and busy[which] < slots:
            submitted, run = held[which].popleft()
            busy[which] += 1
            waits.append((run, now - submitted))
            after(run / speed, lambda: end(which))

    def end(which: int) -> None:
        busy[which] -= 1
        begin(which)
        after(PATH, lambda: ack(which))

    def ack(which: int) -> None:
        out[which] -= 1
        deliver()

    def submit(task: tuple[float, float]) -> None:
        queue.append(task)
        deliver()

    for task in arrivals:
        heappush(events, (task[0], next(serial), lambda task=task: submit(task)))  # type: ignore[misc]
    ended = 0.0
    while events:
        now, _, then = heappop(events)
        then()
        ended = now
    return _mix(arrivals, ended, waits)


def _mix(arrivals: Arrivals, makespan: float, waits: Sequence[tuple[float, float]]) -> Mix:
    ideal = max(sum(run for _, run in arrivals) / CAPACITY, arrivals[-1][0])
    return Mix(
        makespan,
        ideal,
        sorted(waited for run, waited in waits if run == SHORT),
        sorted(waited for run, waited in waits if run == LONG),
    )

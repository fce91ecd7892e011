"""The figures of a run: what is kept of each repetition, and how they become one number each."""

import statistics
from collections.abc import Sequence

import msgspec

from tests.bench.infrastructure import Machine
from tests.bench.systems import Burst
from tests.bench.usage import Spent, Usage


class Repetition(msgspec.Struct):
    """One measured part of one workload: a burst or the latencies of round trips, and what it cost."""

    burst: Burst | None = None
    latencies: list[float] = []
    spent: Spent = msgspec.field(default_factory=Spent)


class Workload(msgspec.Struct):
    """The medians over the repetitions of one workload of one system.

    Args:
        repetitions: how many.
        tasks: tasks of one repetition.
        rate: tasks/s from the first submission to the last result.
        rates: the same of each repetition.
        accepted: tasks/s from the first submission to the last confirm.
        p50_ms, p99_ms: milliseconds of a round trip.
        usage: peak memory (the highest) and processor seconds (the median) of each process.
        cpu_us: microseconds of processor time for each task, all processes together.
        strangers: share of the machine, 0 to 1, that processes of others used meanwhile.
    """

    repetitions: int
    tasks: int
    rate: float | None = None
    rates: list[float] = []
    accepted: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    usage: dict[str, Usage] = {}
    cpu_us: float | None = None
    strangers: float = 0.0


class SystemFigures(msgspec.Struct):
    """One system: its workloads, or why it has none."""

    label: str
    note: str
    workloads: dict[str, Workload] = {}
    skipped: str | None = None


class Backlog(msgspec.Struct):
    """Warren with very many tasks queued before a worker is there.

    Args:
        tasks: how many.
        accepted: tasks/s until the last confirm.
        stored_seconds: until the last was in the store.
        rate: tasks/s completed while the backlog drained.
        scheduler_peak_mb: megabytes of the scheduler's resident memory at most, submission and drain.
        database_mb: megabytes of the store's files before the drain.
    """

    tasks: int
    accepted: float
    stored_seconds: float
    rate: float
    scheduler_peak_mb: float
    database_mb: float


class Delayed(msgspec.Struct):
    """Warren with very many tasks that are far off, while others become due.

    Args:
        tasks: how many are far off.
        due: how many became due.
        rate: of them a second.
        p50_ms, p99_ms: milliseconds from when a task was due until its function ran.
        early: how many ran before they were due; none may.
        scheduler_peak_mb: megabytes of the scheduler's resident memory at most.
    """

    tasks: int
    due: int
    rate: int
    p50_ms: float
    p99_ms: float
    early: int
    scheduler_peak_mb: float


class Results(msgspec.Struct):
    """All that `docs/bench.json` holds."""

    date: str
    quick: bool
    rounds: int
    seconds: float
    slots: int
    machine: Machine
    versions: dict[str, str]
    systems: dict[str, SystemFigures]
    backlog: Backlog | None = None
    delayed: Delayed | None = None
    ratios: dict[str, dict[str, float]] = {}


def summarise(repetitions: Sequence[Repetition]) -> Workload:
    """Return the medians of some repetitions of one workload."""
    bursts = [repetition.burst for repetition in repetitions if repetition.burst is not None]
    names = {name for repetition in repetitions for name in repetition.spent.services}
    usage = {
        name: Usage(
            max(repetition.spent.services[name].peak_mb for repetition in repetitions),
            round(statistics.median(repetition.spent.services[name].cpu_seconds for repetition in repetitions), 3),
        )
        for name in sorted(names)
    }
    tasks = int(statistics.median(burst.n for burst in bursts)) if bursts else len(repetitions[0].latencies)
    workload = Workload(len(repetitions), tasks, usage=usage)
    workload.strangers = statistics.median(repetition.spent.strangers for repetition in repetitions)
    if tasks:
        workload.cpu_us = round(sum(process.cpu_seconds for process in usage.values()) / tasks * 1e6, 1)
    if bursts:
        workload.rates = [round(burst.n / burst.seconds, 1) for burst in bursts]
        workload.rate = statistics.median(workload.rates)
        workload.accepted = round(statistics.median(burst.n / burst.accepted_seconds for burst in bursts), 1)
    else:
        workload.p50_ms = _median_percentile(repetitions, 50)
        workload.p99_ms = _median_percentile(repetitions, 99)
    return workload


def ratios(systems: dict[str, SystemFigures]) -> dict[str, dict[str, float]]:
    """Return Warren's rate over each peer's, by Warren's workload and the peer's name.

    A peer has one way to submit, so its one rate stands against each of Warren's.
    """
    ours = systems.get("warren")
    found: dict[str, dict[str, float]] = {}
    for workload, figures in ours.workloads.items() if ours else ():
        for name, peer in systems.items():
            theirs = peer.workloads.get("bulk")
            if figures.rate and theirs and theirs.rate and not name.startswith("warren"):
                found.setdefault(workload, {})[name] = round(figures.rate / theirs.rate, 2)
    return found


def _median_percentile(repetitions: Sequence[Repetition], percent: int) -> float:
    """Return the median over the repetitions of each one's percentile, in milliseconds."""
    found = []
    for repetition in repetitions:
        ordered = sorted(repetition.latencies)
        found.append(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)])
    return round(statistics.median(found) * 1000, 3)

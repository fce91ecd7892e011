"""Worker reporter: tells operators which workers there are, how they are and what they run, from their last beats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from common.administration import ListWorkers, RunningAttempt, WorkerReport, Workers, WorkerState
from common.clocks import steady
from common.wire import Beat, Message, decode
from scheduler_service.asking import Asker
from scheduler_service.fleet.directory import Directory, Worker
from scheduler_service.fleet.flights import Flights

SHOWN: Final = 10_000
"""Running attempts in one answer at most, of all workers together."""
AT_LEAST: Final = 10
"""Running attempts of each worker that are shown in any case, the oldest ones."""
NAMED: Final = 20_000
"""Task functions in one answer at most, of all workers together."""


class WorkerReporter:
    """Answers `ListWorkers`.

    Args:
        directory: the live workers, and those that were lost.
        flights: what is out, to say which tasks they run.
        clock: monotonic seconds.
    """

    def __init__(self, directory: Directory, flights: Flights, clock: Callable[[], float] = steady) -> None:
        self._directory = directory
        self._flights = flights
        self._clock = clock

    async def answer(self, asker: Asker, body: bytes) -> Message:
        """Describe the workers. Which tasks they run is told only to who may see everybody's."""
        decode(ListWorkers, body)
        now = self._clock()
        workers = sorted(self._directory.workers.values(), key=lambda worker: worker.beat.worker)
        share = max(1, len(workers))
        attempts, names = max(AT_LEAST, SHOWN // share), NAMED // share
        reports = [
            _report(
                worker.beat,
                state_of(worker, now),
                now - worker.heard_at,
                self._running(worker.beat, attempts, named=asker.administrator),
                sorted(worker.functions)[:names],
            )
            for worker in workers
        ]
        lost = [
            _report(death.beat, WorkerState.LOST, now - death.heard_at, [], []) for death in self._directory.lost(now)
        ]
        return Workers(reports + lost)

    def states(self) -> dict[str, int]:
        """How many workers are in each state."""
        now = self._clock()
        found = Counter(state_of(worker, now) for worker in self._directory.workers.values())
        found[WorkerState.LOST] = len(self._directory.lost(now))
        return {state.value: found[state] for state in WorkerState}

    def _running(self, beat: Beat, limit: int, *, named: bool) -> list[RunningAttempt]:
        ages = [*beat.ages, *[0.0] * (len(beat.running) - len(beat.ages))]
        oldest = sorted(zip(beat.running, ages, strict=False), key=lambda one: -one[1])[:limit]
        return [self._attempt(lease, age, named=named) for lease, age in oldest]

    def _attempt(self, lease: str, age: float, *, named: bool) -> RunningAttempt:
        flight = self._flights.by_lease.get(lease)
        queue = "" if flight is None else flight.queue
        if not named:
            return RunningAttempt("", age, queue=queue)
        if flight is None:
            return RunningAttempt(lease, age)
        return RunningAttempt(lease, age, flight.id, flight.name, queue, flight.attempt)


def state_of(worker: Worker, now: float) -> WorkerState:
    """How a live worker is at `now` (monotonic seconds); what is worst of what is true of it."""
    if worker.is_silent(now):
        return WorkerState.SILENT
    if worker.beat.paused:
        return WorkerState.PAUSED
    return WorkerState.DRAINING if worker.beat.draining else WorkerState.ALIVE


def _report(
    beat: Beat, state: WorkerState, heard: float, running: list[RunningAttempt], functions: list[str]
) -> WorkerReport:
    return WorkerReport(
        beat.worker,
        state,
        round(heard, 3),
        beat.host,
        beat.pid,
        beat.version,
        beat.started_at,
        beat.queues,
        beat.labels,
        functions,
        beat.slots,
        beat.capacity or beat.slots,
        beat.processes,
        len(beat.waiting),
        running,
        beat.load,
        0 if state is WorkerState.LOST else len(beat.running),
    )

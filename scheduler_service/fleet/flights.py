"""What is dispatched and not yet answered: leases, numbers, and up to which of these the broker has confirmed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from common.ids import new_leases
from common.questions import Progress
from common.wire import Isolation
from scheduler_service.fleet.express import Express, Line
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.pace import Pace
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.tasks import Placement

LANES: Final = 20_000
"""Lanes that are remembered, so that the flights of one lane share it."""


class Flight(Struct, gc=False):
    """One dispatched task.

    Attributes:
        id, name, queue, lease, attempt: the task and its dispatch.
        lane: where it waited.
        worker: the only worker that it went to; empty: to the work queue of its queue.
        number: the dispatch number.
        dispatched_at: monotonic seconds.
        confirmed: the broker has confirmed its bundle.
        isolation: how it is run.
        adopted: it was dispatched before this process knew of it; when, is not known.
        copied: it may have been published more than once, so that two workers may have it.
        cancelled: its task is over; it is out until its worker gives it back, or nobody has it any more.
        progress: how far it is, as its worker said last.
        straight: when it was dispatched there was a slot for it, so it has waited in the broker for nothing.
        express: it went past the window, and starts before what came to its worker otherwise.
    """

    id: str
    name: str
    queue: str
    lease: str
    attempt: int
    number: int
    dispatched_at: float
    confirmed: bool = False
    isolation: Isolation = Isolation.NONE
    adopted: bool = False
    copied: bool = False
    cancelled: bool = False
    progress: Progress | None = None
    lane: Lane | None = None
    worker: str = ""
    straight: bool = False
    express: bool = False


class Flights:
    """The tasks that are out, by lease.

    Args:
        pace: told what completed.
        express: told what goes by express, and that it is over.
        landed: given a lane, and how many of its dispatches are over.
        used: given a queue, and for how many seconds its tasks that completed had a slot.
    """

    def __init__(
        self,
        pace: Pace,
        express: Express,
        *,
        landed: Callable[[Lane, int], None] = lambda lane, count: None,
        used: Callable[[str, float], None] = lambda queue, seconds: None,
    ) -> None:
        self._pace = pace
        self._express = express
        self._landed = landed
        self._used = used
        self._direct: dict[str, int] = defaultdict(int)
        self._lanes: dict[int, Lane] = {}
        self.by_lease: dict[str, Flight] = {}
        self._out: dict[str, int] = defaultdict(int)
        self._lines: dict[str, Line] = defaultdict(Line)
        self._number = 0
        self._open: dict[int, None] = {}
        self._doubtful: set[int] = set()
        self.straight: dict[str, int] = {}
        """By queue: while no more tasks of it are out than this, the next one has a slot waiting for it."""
        self.paused: set[str] = set()
        """Queues whose dispatch waits until what was lost there is known."""

    def start_from(self, number: int) -> None:
        """Number dispatches from the one after `number`."""
        self._number = max(self._number, number)

    @property
    def next_number(self) -> int:
        """The number of the next dispatch."""
        return self._number + 1

    def out(self, queue: str) -> int:
        """How many tasks of `queue` are out or reserved."""
        return self._out[queue]

    @property
    def by_queue(self) -> Mapping[str, int]:
        """How many tasks of each queue are out or reserved, now and whenever it is looked at."""
        return self._out

    def direct(self, worker: str) -> int:
        """How many tasks are out in the direct queue of `worker`, those by express not counted."""
        return self._direct.get(worker, 0)

    def has_higher(self, queue: str, priority: int, waiting: int) -> bool:
        """Whether a higher priority than this is among the last `waiting` tasks that went, or go, out of `queue`."""
        return self._lines[queue].has_higher(priority, waiting)

    def queues(self) -> list[str]:
        """The queues that have or had tasks out."""
        return list(self._out)

    def reserve(
        self, queue: str, count: int, priority: int = 0, worker: str = "", *, express: bool = False
    ) -> list[Placement]:
        """Take room for `count` tasks of one priority; give back what is not used with `release`.

        Args:
            queue: their queue.
            count: how many.
            priority: theirs.
            worker: the one to whose direct queue they go; empty: to the work queue.
            express: that worker starts them before what came to it otherwise.
        """
        if express:
            self._express.taken(worker, count)
        self._out[queue] += count
        if not worker:
            self._lines[queue].add(priority, count)
        first = self._number + 1
        self._number += count
        numbers = range(first, first + count)
        self._open.update(dict.fromkeys(numbers))
        leases = zip(new_leases(count), numbers, strict=True)
        return [Placement(lease, number, worker, express) for lease, number in leases]

    def release(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room that was reserved and not used."""
        self._drop(queue, placements)
        for placement in placements:
            self._open.pop(placement.number, None)

    def doubt(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room whose transaction may or may not have been committed.

        The numbers stay open until the store has been asked (`adopt`, `settle_doubts`): the mark must not pass them.
        """
        self._drop(queue, placements)
        self._doubtful.update(placement.number for placement in placements)

    def _drop(self, queue: str, placements: Sequence[Placement]) -> None:
        self._out[queue] -= len(placements)
        self._lines[queue].drop(sum(not placement.worker for placement in placements))
        for placement in placements:
            if placement.express:
                self._express.landed(placement.worker)

    def doubts(self) -> frozenset[int]:
        """The numbers that are in doubt now."""
        return frozenset(self._doubtful)

    def settle_doubts(self, numbers: frozenset[int]) -> None:
        """These numbers have been looked for in the store, and what was found is adopted."""
        flying = {flight.number for flight in self.by_lease.values()}
        for number in numbers - flying:
            self._open.pop(number, None)
        self._doubtful -= numbers

    def launch(self, claimed: Iterable[ClaimedTask], now: float) -> None:
        """Dispatches whose transaction was committed: from here they are out."""
        for task in claimed:
            assignment = task.assignment
            # Room was reserved, so this one is among those that are out.
            straight = self._out[task.queue] <= self.straight.get(task.queue, 0)
            self.by_lease[assignment.lease] = Flight(
                assignment.id,
                assignment.task,
                task.queue,
                assignment.lease,
                assignment.attempt,
                task.number,
                now,
                False,
                assignment.isolation,
                lane=self._lane(task),
                worker=task.worker,
                straight=straight,
                express=task.express,
            )
            if task.worker and not task.express:
                self._direct[task.worker] += 1

    def adopt(self, claimed: Sequence[ClaimedTask], confirmed_up_to: int, now: float) -> list[ClaimedTask]:
        """Take over dispatched tasks found in the store.

        Returns:
            Those that have to be published (again, with the same lease), because the broker may not have them.
        """
        strays = [task for task in claimed if task.assignment.lease not in self.by_lease]
        self.launch(strays, now)
        unsure = []
        for task in strays:
            self.by_lease[task.assignment.lease].adopted = True
            self._out[task.queue] += 1
            if not task.worker:
                self._lines[task.queue].add(task.priority)
            self._number = max(self._number, task.number)
            if task.number > confirmed_up_to:
                self._open[task.number] = None
                self.by_lease[task.assignment.lease].copied = True
                unsure.append(task)
            else:
                self.by_lease[task.assignment.lease].confirmed = True
        # A stray may have a lower number than those that are open: the mark must not pass it.
        self._open = dict.fromkeys(sorted(self._open))
        return unsure

    def retain(self, claimed: Iterable[ClaimedTask], now: float) -> None:
        """Land what is not among `claimed`, all that is out in the store: its end was committed, and nobody heard."""
        leases = {task.assignment.lease for task in claimed}
        for lease in self.by_lease.keys() - leases:
            if not self.by_lease[lease].cancelled:
                self.land(lease, now)

    def cancel(self, leases: Iterable[str]) -> None:
        """The tasks that are out with these leases are over; their workers are being told."""
        for lease in leases:
            flight = self.by_lease.get(lease)
            if flight is not None:
                flight.cancelled = True

    def progress(self, reported: Mapping[str, Progress]) -> None:
        """How far tasks are, by lease; of what is not out nothing is kept."""
        for lease, progress in reported.items():
            flight = self.by_lease.get(lease)
            if flight is not None:
                flight.progress = progress

    def copy(self, lease: str) -> bool:
        """The dispatch is about to be published again; False when it is over, and need not be."""
        flight = self.by_lease.get(lease)
        if flight is None:
            return False
        flight.copied = True
        return True

    def confirm(self, leases: Iterable[str]) -> None:
        """The broker has confirmed the bundle with these leases."""
        for lease in leases:
            flight = self.by_lease.get(lease)
            if flight is not None:
                flight.confirmed = True
                self._open.pop(flight.number, None)

    @property
    def confirmed_up_to(self) -> int:
        """Every dispatch up to this number is in the broker, answered, or was never used."""
        return next(iter(self._open), self._number + 1) - 1

    def land(self, lease: str, now: float, run_seconds: float | None = None) -> None:
        """A dispatch is over.

        Args:
            lease: its lease.
            now: monotonic seconds.
            run_seconds: how long it ran, when it completed.
        """
        if run_seconds is not None:
            self.land_all([(lease, run_seconds)], now)
            return
        flight = self.by_lease.pop(lease, None)
        if flight is not None:
            self._leave(flight)
            if flight.lane is not None:
                self._landed(flight.lane, 1)

    def land_all(self, completed: Iterable[tuple[str, float]], now: float) -> None:
        """Dispatches have completed: (lease, run time in seconds) of each."""
        runs: dict[tuple[str, str], list[float]] = defaultdict(list)
        lanes: dict[int, tuple[Lane, int]] = {}
        least: dict[str, float] = {}
        flights, leave = self.by_lease, self._leave
        for lease, run_seconds in completed:
            flight = flights.pop(lease, None)
            if flight is None:
                continue
            leave(flight)
            queue, lane = flight.queue, flight.lane
            if lane is not None:
                lanes[lane.number] = (lane, lanes[lane.number][1] + 1 if lane.number in lanes else 1)
            runs[queue, flight.name].append(run_seconds)
            if flight.straight and not flight.adopted:
                path = max(0.0, now - flight.dispatched_at - run_seconds)
                if path < least.get(queue, math.inf):
                    least[queue] = path
        for lane, count in lanes.values():
            self._landed(lane, count)
        for (queue, name), seconds in runs.items():
            self._used(queue, sum(seconds))
            self._pace.ran(queue, name, seconds, now)
        for queue, path in least.items():
            self._pace.travelled(queue, path, now)

    def _leave(self, flight: Flight) -> None:
        self._out[flight.queue] -= 1
        self._open.pop(flight.number, None)
        if flight.express:
            self._express.landed(flight.worker)
        elif flight.worker:
            self._direct[flight.worker] -= 1
            if not self._direct[flight.worker]:
                del self._direct[flight.worker]

    def _lane(self, task: ClaimedTask) -> Lane:
        lane = self._lanes.get(task.lane)
        if lane is None:
            if len(self._lanes) >= LANES:
                self._lanes.clear()
            lane = Lane(task.lane, task.queue, task.priority, task.assignment.task, task.key)
            self._lanes[task.lane] = lane
        return lane

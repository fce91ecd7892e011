"""What is dispatched and not yet answered, and the room that is left in each window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from common.ids import new_leases
from common.questions import Progress
from common.wire import Isolation
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.rates import CompletionRate, PathTime, RunTimes
from scheduler_service.fleet.window import Window, window
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.tasks import Placement

FUNCTIONS = 10_000
"""Functions whose run times are remembered; client-chosen names beyond that share one entry."""

LANES = 20_000
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


class Flights:
    """The tasks that are out, by lease, and what was learned from those that came back.

    Args:
        directory: the live workers.
        limit: the most tasks that one window may hold.
        landed: given the lane of each dispatch that is over.
    """

    def __init__(self, directory: Directory, limit: int, *, landed: Callable[[Lane], None] = lambda lane: None) -> None:
        self._directory = directory
        self._limit = limit
        self._landed = landed
        self._lanes: dict[int, Lane] = {}
        self.by_lease: dict[str, Flight] = {}
        self._out: dict[str, int] = defaultdict(int)
        self._rates: dict[str, CompletionRate] = defaultdict(CompletionRate)
        self._paths: dict[str, PathTime] = defaultdict(PathTime)
        self._runs: dict[str, RunTimes] = {}
        self._names: dict[str, str] = {}
        self._number = 0
        self._open: dict[int, None] = {}
        self._doubtful: set[int] = set()
        self.paused: set[str] = set()
        """Queues whose dispatch waits until what was lost there is known."""

    def start_from(self, number: int) -> None:
        """Number dispatches from the one after `number`."""
        self._number = max(self._number, number)

    def window(self, queue: str, now: float) -> Window:
        """The window of `queue` at `now` (monotonic seconds)."""
        serving = self._directory.serving(queue)
        slots = sum(worker.beat.slots for worker in serving)
        shared = {other for worker in serving for other in worker.beat.queues if other != queue}
        if shared:
            taken = sum(self._out[other] for other in shared)
            busy = 1 + sum(1 for other in shared if self._out[other])
            slots = max(slots - taken, slots // busy, 1)
        return window(
            slots=slots,
            workers=len(serving),
            completions=self._rates[queue].per_slot(now),
            expected_run=self._expected_in(queue),
            path=self._paths[queue].least(now),
            limit=self._limit,
        )

    def room(self, queue: str, now: float) -> int:
        """How many more tasks of `queue` may be dispatched."""
        if queue in self.paused:
            return 0
        return max(0, self.window(queue, now).tasks - self._out[queue])

    def out(self, queue: str) -> int:
        """How many tasks of `queue` are out or reserved."""
        return self._out[queue]

    def queues(self) -> list[str]:
        """The queues that have or had tasks out."""
        return list(self._out)

    def expected_run(self, name: str) -> float:
        """Seconds that the function `name` is expected to run."""
        return self._times(name).expected

    def reserve(self, queue: str, count: int) -> list[Placement]:
        """Take room for `count` tasks; give back what is not used with `release`."""
        self._out[queue] += count
        first = self._number + 1
        self._number += count
        numbers = range(first, first + count)
        self._open.update(dict.fromkeys(numbers))
        return [Placement(lease, number) for lease, number in zip(new_leases(count), numbers, strict=True)]

    def release(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room that was reserved and not used."""
        self._out[queue] -= len(placements)
        for placement in placements:
            self._open.pop(placement.number, None)

    def doubt(self, queue: str, placements: Sequence[Placement]) -> None:
        """Give back room whose transaction may or may not have been committed.

        The numbers stay open until the store has been asked (`adopt`, `settle_doubts`): the mark must not pass them.
        """
        self._out[queue] -= len(placements)
        self._doubtful.update(placement.number for placement in placements)

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
            )

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
        flight = self.by_lease.pop(lease, None)
        if flight is None:
            return
        self._out[flight.queue] -= 1
        self._open.pop(flight.number, None)
        if flight.lane is not None:
            self._landed(flight.lane)
        if run_seconds is not None:
            self._rates[flight.queue].add(1, now)
            self._times(flight.name).add(run_seconds)
            self._names[flight.queue] = flight.name
            if not flight.adopted:
                self._paths[flight.queue].add(max(0.0, now - flight.dispatched_at - run_seconds), now)

    def _lane(self, task: ClaimedTask) -> Lane:
        lane = self._lanes.get(task.lane)
        if lane is None:
            if len(self._lanes) >= LANES:
                self._lanes.clear()
            lane = Lane(task.lane, task.queue, task.priority, task.assignment.task, task.key)
            self._lanes[task.lane] = lane
        return lane

    def _expected_in(self, queue: str) -> float:
        name = self._names.get(queue)
        return self._times(name).expected if name is not None else RunTimes().expected

    def _times(self, name: str) -> RunTimes:
        times = self._runs.get(name)
        if times is None:
            if len(self._runs) >= FUNCTIONS:
                name = "other"
            times = self._runs.setdefault(name, RunTimes())
        return times

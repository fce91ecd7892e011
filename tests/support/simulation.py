"""A whole Warren in one thread, by dice: the real rules and the real bookkeeping, a model of all the rest.

Real are `transition`, `Flights`, `Rooms`, `Directory` and `pack`. Modelled are the store (a dictionary that survives),
the broker (lists that drop, double, reorder and delay) and the workers (that die, freeze and come back too late). Each
step is one thing that one part does; which one, and what goes wrong, is drawn from a seeded generator, so that a seed
that fails can be run again.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from common.states import (
    TERMINAL,
    Cancelled,
    Due,
    Event,
    Expired,
    Lost,
    Rules,
    State,
    Task,
    Transition,
    Verdict,
    transition,
)
from common.wire import Assignment, ErrorKind
from scheduler_service.bundles import pack
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flights
from scheduler_service.storage.claims import ClaimedTask
from tests.support.rooms import flights_and_rooms
from tests.support.simulated_outside import QUEUE, SLOTS, Faults, Message, Outside, Row, Violation

LIMIT = 12
RULES = Rules(max_crashes=2, unknown_function_grace=1.0, unknown_function_wait=0.2)
TICK = 0.05
"""Virtual seconds of one step."""

Step = Callable[[Task, Event, float, Rules], Transition]

__all__ = ["Faults", "Step", "Violation", "World"]


class World(Outside):
    """One run.

    Args:
        seed: of the dice.
        faults: what may go wrong.
        tasks: how many are submitted.
        step: the transition function; a mutant of it to see whether the checks can fail.
        marks: how far the store notes that dispatches are confirmed; None does it as Warren does.
        rescue: whether lost dispatches are looked for.
        lands: whether an answer about a task that is over lets its flight land.
    """

    def __init__(
        self,
        seed: int,
        faults: Faults,
        *,
        tasks: int = 25,
        step: Step = transition,
        marks: Callable[[Flights], int] | None = None,
        rescue: bool = True,
        lands: bool = True,
    ) -> None:
        super().__init__(seed, faults)
        self.transition = step
        self.marks = marks or (lambda flights: flights.confirmed_up_to)
        self.rescues = rescue
        self.lands = lands
        kinds = ["fine"] * 14 + ["flaky", "hasty", "raises", "kills", "massacre", "unknown"]
        self.kinds = {f"task-{n}": self.dice.choice(kinds) for n in range(tasks)}
        self.submitted = list(self.kinds)
        self.rows: dict[str, Row] = {}
        self.mark = 0
        self.ended: dict[str, Task] = {}
        self.begin()

    # --- the scheduler -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A scheduler starts with nothing but the store."""
        self.directory = Directory(dead_after=1e9)
        self.flights, self.rooms = flights_and_rooms(self.directory, LIMIT)
        self.suspects: set[str] = set()
        out = sorted(
            (row for row in self.rows.values() if row.task.state is State.DISPATCHED), key=lambda row: row.number
        )
        self.flights.start_from(self.mark)
        unsure = self.flights.adopt([self.claimed(row) for row in out], self.mark, self.now)
        self.publishing = list(pack(unsure, {QUEUE: 5}))

    def claimed(self, row: Row) -> ClaimedTask:
        task = row.task
        assignment = Assignment(row.id, row.kind, task.lease, task.attempt, isolation=task.isolation)
        return ClaimedTask(assignment, QUEUE, row.priority, 0.0, row.number)

    def commit(self) -> None:
        self.mark = self.marks(self.flights)

    def dispatch(self, rows: list[Row]) -> None:
        """Commit dispatches for as many of `rows` as there is room, then publish them."""
        room = min(self.rooms.room(QUEUE, self.now), len(rows))
        if room <= 0:
            return
        mark = self.marks(self.flights)
        for row, placement in zip(rows, self.flights.reserve(QUEUE, room), strict=False):
            task = row.task
            row.task = replace(task, state=State.DISPATCHED, attempt=task.attempt + 1, lease=placement.lease)
            row.number = placement.number
        self.mark = mark
        if self.flights.out(QUEUE) > max(LIMIT, SLOTS * len(self.directory.workers)):
            raise Violation(f"{self.flights.out(QUEUE)} tasks are out, the window is smaller")
        if self.fault(self.faults.restart / 10):
            self.restart()
            return
        claimed = [self.claimed(row) for row in rows[:room]]
        self.flights.launch(claimed, self.now)
        self.publishing += pack(claimed, {QUEUE: 5})

    def intake(self) -> None:
        batch = self.submitted[: self.dice.randint(1, 8)]
        new = [id_ for id_ in dict.fromkeys(batch) if id_ not in self.rows]
        for id_ in new:
            task = Task(State.QUEUED, expires_at=self.now + 2.0 if self.kinds[id_] == "hasty" else None)
            self.rows[id_] = Row(id_, self.kinds[id_], task, self.dice.choice([1, 4, 4, 9]))
        self.commit()
        if self.fault(self.faults.double):
            return
        del self.submitted[: len(batch)]

    def claim(self) -> None:
        for row in self.rows.values():
            if row.task.state is State.QUEUED and (row.task.expires_at or self.now + 1) <= self.now:
                self.apply(row.id, Expired())
        queued = [row for row in self.rows.values() if row.task.state is State.QUEUED]
        self.dispatch(sorted(queued, key=lambda row: -row.priority))

    def ripen(self) -> None:
        for row in self.rows.values():
            if row.task.state is State.SCHEDULED and (row.task.due_at or 0.0) <= self.now:
                self.apply(row.id, Due())
            elif row.task.state in (State.SCHEDULED, State.QUEUED):
                self.apply(row.id, Expired())

    def cancel(self) -> None:
        """Somebody cancels; the workers that listen are told."""
        unfinished = [row for row in self.rows.values() if row.task.state not in TERMINAL]
        if unfinished:
            row = self.dice.choice(unfinished)
            lease = row.task.lease
            self.apply(row.id, Cancelled())
            self.flights.cancel([lease])
            self.told_to_stop(lease)

    def publish(self) -> None:
        if not self.publishing:
            return
        bundle = self.publishing.pop(self.dice.randrange(len(self.publishing)))
        bundle = [task for task in bundle if task.assignment.lease in self.flights.by_lease]
        if not bundle:
            return
        self.arrive(bundle)
        if self.fault(self.faults.unknown):
            self.publishing.append(bundle)
        else:
            self.flights.confirm(task.assignment.lease for task in bundle)

    def arrive(self, bundle: list[ClaimedTask]) -> None:
        tasks = [task.assignment for task in bundle]
        self.work.append(Message(tasks, open={task.lease for task in tasks}))

    def collect(self) -> None:
        """Apply some replies, in any order; some of them come again, sooner or much later."""
        for _ in range(self.dice.randint(1, 5)):
            if self.replies:
                reply = self.replies.pop(self.dice.randrange(len(self.replies)))
                self.receive(*reply)
                if self.fault(self.faults.double):
                    self.late.append(reply)
        if self.late and self.dice.random() < 0.2:
            self.replies.append(self.late.pop(self.dice.randrange(len(self.late))))

    def receive(self, id_: str, event: Event | str) -> None:
        if isinstance(event, str):
            if event in self.flights.by_lease:
                self.suspects.add(event)
        else:
            self.apply(id_, event)

    def apply(self, id_: str, event: Event) -> None:
        row = self.rows[id_]
        before = row.task
        step = self.transition(before, event, self.now, RULES)
        row.task = step.task
        if step.tell != (step.task.state in TERMINAL):
            raise Violation(f"{id_}: told although it is {step.task.state}")
        if id_ in self.ended and step.task != self.ended[id_]:
            raise Violation(f"{id_} was {self.ended[id_].state} and became {step.task}")
        if step.verdict is Verdict.CHANGED and step.task.state in TERMINAL:
            self.ended[id_] = step.task
        if step.verdict is Verdict.CHANGED and before.state is State.DISPATCHED:
            if step.task.state is not State.DISPATCHED and not isinstance(event, Cancelled):
                self.flights.land(before.lease, self.now, 0.1)
        elif self.lands and step.verdict is Verdict.REPEATED:
            self.flights.land(getattr(event, "lease", ""), self.now)
        self.commit()

    def rescue(self) -> None:
        """One round of the rescuer, in its order: 0 ready, probe, barrier, verdict."""
        if not self.rescues:
            return
        flights = self.flights.by_lease.values()
        candidates = [each for each in flights if each.lease in self.suspects or (each.confirmed and not self.work)]
        self.suspects.clear()
        for worker in self.workers:
            self.beat(worker)
        alive = {worker.name for worker in self.workers if not worker.cut}
        for name, known in self.directory.workers.items():
            if name not in alive:
                known.gone_since = 0.0
        self.directory.bury_silent(self.now, 1.0, 0.0)
        while self.replies:
            self.receive(*self.replies.pop(0))
        for flight in candidates:
            if flight.lease in self.flights.by_lease and self.directory.holder(flight.lease) is None:
                died = self.directory.holder_died(flight.lease, QUEUE, flight.dispatched_at)
                self.apply(flight.id, Lost(flight.lease, died, self.directory.running_at_dead(flight.lease)))

    def restart(self) -> None:
        for bundle in self.publishing:
            if self.dice.random() < 0.5:
                self.arrive(bundle)
        self.begin()

    # --- time --------------------------------------------------------------------------------------------------

    def beats(self) -> None:
        self.beat(self.dice.choice(self.workers))

    @property
    def work_left(self) -> bool:
        return bool(self.submitted) or any(row.task.state not in TERMINAL for row in self.rows.values())

    def run(self, steps: int = 600) -> None:
        """`steps` with faults, then without until all is done; raises `Violation`."""
        scheduler = (self.intake, self.claim, self.ripen, self.publish, self.collect)
        workers = (self.beats, self.deliver, self.start, self.finish)
        weights = dict.fromkeys((*scheduler, *workers), 1.0) | {self.rescue: 0.2}
        names = ("kill", "freeze", "restart", "purge", "amnesia", "cancel")
        faulty = weights | {getattr(self, name): getattr(self.faults, name) for name in names}
        for number in range(steps):
            self.do(faulty)
            if number % 50 == 0 and not self.work_left:
                break
        # The faults are over; but what they have made possible may still happen.
        self.faults = Faults(freeze=self.faults.freeze, restart=0.0, amnesia=float(self.faults.may_run_twice_at_once))
        for _ in range(20_000):
            if not self.work_left and not any(flight.cancelled for flight in self.flights.by_lease.values()):
                return self.judge()
            self.do(weights)
        left: object = {row.id: row.task for row in self.rows.values() if row.task.state not in TERMINAL}
        left = left or self.flights.by_lease
        raise Violation(f"these never ended: {left or self.submitted}")

    def do(self, weights: dict[Callable[[], None], float]) -> None:
        self.now += TICK
        self.dice.choices(list(weights), list(weights.values()))[0]()

    def judge(self) -> None:
        """All is terminal; is it as it should be?"""
        for reply in [*self.replies, *self.late]:
            self.receive(*reply)
        for row in self.rows.values():
            self.judge_one(row, row.task)
        if self.flights.by_lease or self.flights.out(QUEUE):
            raise Violation(f"all is over, and {self.flights.by_lease or self.flights.out(QUEUE)} is counted as out")

    def judge_one(self, row: Row, task: Task) -> None:
        if task.state is State.CANCELLED or (task.state is State.EXPIRED and row.kind == "hasty"):
            return
        kind = None if task.error is None else task.error.kind
        expected = {
            "fine": None,
            "flaky": None,
            "hasty": None,
            "raises": ErrorKind.EXCEPTION,
            "kills": ErrorKind.CRASHED,
            "massacre": ErrorKind.CRASHED,
            "unknown": ErrorKind.UNKNOWN_FUNCTION,
        }[row.kind]
        # Whoever runs alone in a worker that dies is convicted, whatever it died of, and when that is so twice, failed.
        doomed = self.blamed[row.id] >= RULES.max_crashes and kind is ErrorKind.CRASHED
        if kind is not expected and not doomed:
            raise Violation(f"{row.id} ({row.kind}) ended as {task} after {self.blamed[row.id]} deaths around it")
        if task.state is State.SUCCEEDED and bytes(task.result) != b'"%s"' % row.id.encode():
            raise Violation(f"{row.id} has the result of another: {task}")

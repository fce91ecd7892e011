"""Intake: takes the submissions that have arrived by now and writes them in one transaction, then acks.

Tasks that may go at once are written as dispatched in that same transaction, so the fast path costs one write. The
order of events is what keeps the promise of the client's confirm::

    read -> sort by lane -> reserve room -> commit (tasks, leases, what was refused) -> hand to the dispatcher -> ack
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from common.broker import BatchConsumer, Connection, Delivery
from common.errors import StoreConflict, StoreRefused
from common.failpoints import reached
from common.states import TERMINAL, State
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Assignment, ErrorInfo, ErrorKind, TaskResult
from scheduler_service import operations
from scheduler_service.events import Ended, Finished, Parked, Submitted
from scheduler_service.fleet.lanes import Lane
from scheduler_service.operations import Accepted
from scheduler_service.reception import Limits, Refusal, read, refuse, set_times
from scheduler_service.storage.claims import ClaimedTask, policy_to_send, starts_within
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store
from scheduler_service.storage.tasks import NewTask, Placement

PREFETCH = 32
"""Submission messages at a time, each of about 1 MiB at most: this bounds the memory of a batch."""

_Name = tuple[str, int, str, str, tuple[str, ...]]
Tell = Callable[[Mapping[str, Sequence[TaskResult]]], Awaitable[None]]
TellStored = Callable[[Mapping[str, Sequence[str]]], Awaitable[None]]


class Dispatcher(Protocol):
    """What intake needs of the dispatcher."""

    def lane(self, queue: str, priority: int, task: str, key: str, requires: Sequence[str], coming: int = 0) -> Lane:
        """The lane under which such a task is stored; `coming` lanes of the same batch are not counted yet."""

    def room(self, queue: str) -> int:
        """How many more tasks of `queue` may be out."""

    def place(self, lane: Lane, count: int) -> list[Placement]:
        """Room for up to `count` tasks that may go at once."""

    def placed(self, lane: Lane, stored: int, unused: Sequence[Placement]) -> None:
        """So many tasks that had room are stored; for the others there is no task after all."""

    def send(self, claimed: Sequence[ClaimedTask]) -> None:
        """Dispatches whose transaction was committed."""

    def queued(self, lane: Lane, count: int, since: float | None = None) -> None:
        """`count` more tasks are queued in the store; the oldest of them since a moment, seconds since the epoch."""

    def doubt(self, lane: Lane, placements: Sequence[Placement]) -> None:
        """Their transaction may or may not have been committed: look in the store for what it dispatched."""

    def admits(self, queue: str) -> bool:
        """Whether `queue` exists or may be made."""

    @property
    def mark(self) -> int:
        """Up to which dispatch the broker has confirmed."""

    @property
    def spans(self) -> Mapping[tuple[str, str], float]:
        """The seconds of each rate's span, by scope and name."""


class Timers(Protocol):
    """What intake needs of the timers."""

    def scheduled(self, queue: str, count: int) -> None:
        """`count` more tasks are scheduled in the store."""

    def expect(self, moment: float) -> None:
        """A task is due or over at `moment`, seconds since the epoch."""

    def recount(self) -> None:
        """A transaction may or may not have been committed: look in the store for what is scheduled."""


class Group(Struct, eq=False):
    """The tasks of a batch that are of one lane.

    Attributes:
        lane: which.
        going: tasks that may go now; the first ones have a placement.
        over: those whose time was over when they came.
        later: those that are due later.
    """

    lane: Lane
    going: list[NewTask]
    over: list[NewTask]
    later: list[NewTask]


class Written(Struct, eq=False):
    """A transaction that was committed.

    Attributes:
        count: how many tasks came.
        groups: those that were not refused.
        accepted: what was stored of them, and what was not.
        now: its time, seconds since the epoch.
    """

    count: int
    groups: list[Group]
    accepted: Accepted
    now: float


class Intake:
    """The consumer of the submit queue.

    Args:
        connection: the consuming connection.
        topology: the names.
        store: where tasks go.
        dispatcher: who sends those that may go at once.
        timers: who keeps those that are due later, or may expire.
        tell: tells results by reply queue: of submissions whose id stands for something else.
        tell_stored: tells stored results by reply queue: of tasks that are terminal already.
        limits: what a submission may be.
        result_ttl: seconds for which a task is kept after its end when it does not say.
        workers: the broker users who are believed which task submitted another one.
        telemetry: where `Submitted` and `Parked` go.
    """

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        store: Store,
        *,
        dispatcher: Dispatcher,
        timers: Timers,
        tell: Tell,
        tell_stored: TellStored,
        limits: Limits,
        result_ttl: float,
        workers: Collection[str],
        telemetry: Telemetry,
    ) -> None:
        self._workers = frozenset(workers)
        self._topology = topology
        self._store = store
        self._dispatcher = dispatcher
        self._timers = timers
        self._result_ttl = result_ttl
        self._tell = tell
        self._tell_stored = tell_stored
        self._limits = limits
        self._telemetry = telemetry
        self.consumer = BatchConsumer(connection, topology.submit, self._handle, prefetch=PREFETCH)

    @property
    def storing(self) -> bool:
        """Whether what comes is stored, as far as known."""
        return self.consumer.consuming and not self.consumer.stuck_reason

    async def start(self) -> None:
        """Start consuming."""
        await self.consumer.start()

    async def drain(self) -> None:
        """Take no more, and store what has arrived."""
        await self.consumer.drain()

    async def stop(self) -> None:
        """Stop at once; what is not stored goes back to the submit queue."""
        await self.consumer.stop()

    async def _handle(self, deliveries: list[Delivery]) -> None:
        new, refused = read(deliveries, self._topology, self._limits)
        new = [self._admitted(task, refused) for task in new]
        await self._store_all(new, refused)
        await reached("intake.before_ack")

    def _admitted(self, task: NewTask, refused: list[ParkedMessage]) -> NewTask:
        message = task.message
        if task.refusal is not None or self._dispatcher.admits(message.queue):
            return task
        refusal = Refusal(
            "too_many_queues", f"the queue {message.queue!r} does not exist and no more may be made (max_queues)"
        )
        failed, parked = refuse(message, task.owner, task.reply_to, refusal)
        refused.append(parked)
        return failed

    async def _store_all(self, new: list[NewTask], refused: list[ParkedMessage]) -> None:
        try:
            written = await self._write(new, refused)
        except StoreRefused as error:
            # The database refuses one of them, and the neighbours must not suffer: halve until it is found.
            if len(new) > 1:
                middle = len(new) // 2
                await self._store_all(new[:middle], refused)
                await self._store_all(new[middle:], [])
            elif new and new[0].refusal is None:
                failed, parked = refuse(
                    new[0].message, new[0].owner, new[0].reply_to, Refusal("unstorable", str(error))
                )
                await self._store_all([failed], [*refused, parked])
            else:
                raise
        else:
            try:
                self._proceed(written, refused)
            except BaseException:
                self._doubt(written.groups)  # what is stored as dispatched has to be found and sent
                raise
            await self._tell(_conflicts(written.accepted))
            await self._tell_stored(_terminal(written.accepted))

    async def _write(self, new: list[NewTask], refused: list[ParkedMessage]) -> Written:
        now = time.time()
        for task in new:
            if task.message.options is not None:
                set_times(task, task.message.options, self._result_ttl, now)
                if task.owner in self._workers:
                    task.parent = task.message.options.parent
        groups = self._grouped(new, now)
        self._place(groups)
        mark, spans = self._dispatcher.mark, self._dispatcher.spans
        try:
            await reached("intake.before_commit")
            try:
                accepted = await self._store.run(operations.accept, new, refused, mark, now, spans)
            except StoreConflict:
                accepted = await self._store.run(operations.accept_carefully, new, refused, mark, now, spans)
            await reached("intake.after_commit")
        except BaseException:
            self._doubt(groups)
            raise
        return Written(len(new), groups, accepted, now)

    def _grouped(self, new: Sequence[NewTask], now: float) -> list[Group]:
        """The tasks by lane, each with the number of its lane; refused ones are in none."""
        found: dict[_Name, Group] = {}
        by_lane: dict[int, Group] = {}
        for task in new:
            task.placement = None
            if task.refusal is not None:
                continue
            message, options = task.message, task.message.options
            if options is None:
                name: _Name = (message.queue, message.priority, message.task, "", ())
            else:
                name = (message.queue, message.priority, message.task, options.key or "", options.requires or ())
            group = found.get(name)
            if group is None:
                lane = self._dispatcher.lane(*name, coming=len(by_lane))
                group = by_lane.get(lane.number)
                if group is None:
                    group = by_lane[lane.number] = Group(lane, [], [], [])
                found[name] = group
            task.lane = group.lane.number
            if task.due_at is not None:
                group.later.append(task)
            elif task.expires_at is not None and task.expires_at <= now:
                group.over.append(task)
            else:
                group.going.append(task)
        return list(by_lane.values())

    def _place(self, groups: Sequence[Group]) -> None:
        # Where there is not room for all, and there is more than one lane, the turns decide what goes.
        wanted = Counter[str]()
        for group in groups:
            wanted[group.lane.queue] += len(group.going)
        for group in groups:
            queue, count = group.lane.queue, len(group.going)
            if count and (count == wanted[queue] or self._dispatcher.room(queue) >= wanted[queue]):
                for task, placement in zip(group.going, self._dispatcher.place(group.lane, count), strict=False):
                    task.placement = placement
            wanted[queue] -= count

    def _doubt(self, groups: Sequence[Group]) -> None:
        # Also for those without a placement: they may be queued in the store, and nobody has counted them.
        for group in groups:
            placements = [task.placement for task in group.going if task.placement is not None]
            self._dispatcher.doubt(group.lane, placements)
            for task in group.going:
                task.placement = None
        if any(group.later for group in groups):
            self._timers.recount()

    def _proceed(self, written: Written, refused: Sequence[ParkedMessage]) -> None:
        accepted, now = written.accepted, written.now
        kept = None if len(accepted.stored) == written.count else {id(task) for task in accepted.stored}
        for group in written.groups:
            self._follow(group, kept, now)
        waiting = [task for task in accepted.stored if task.placement is None and task.refusal is None]
        moments = [moment for task in waiting for moment in (task.due_at, task.expires_at) if moment is not None]
        if moments:
            self._timers.expect(min(moments))
        self._dispatcher.send([_claimed(task, now) for task in accepted.stored if task.placement is not None])
        by_queue = Counter(task.message.queue for task in accepted.stored)
        self._telemetry.emit(Submitted(written.count, by_queue, len(accepted.known) + len(accepted.aliases)))
        failed = Counter(
            (task.message.queue, task.message.task) for task in accepted.stored if task.refusal is not None
        )
        if failed:
            ended = [Finished(*which, State.FAILED.value, [0.0] * n, [0.0] * n) for which, n in failed.items()]
            self._telemetry.emit(Ended(ended))
        reasons = Counter(message.reason for message in refused)
        reasons["conflict"] += len(accepted.conflicts)
        for reason, count in reasons.items():
            if count:
                self._telemetry.emit(Parked("submit", reason, count))

    def _follow(self, group: Group, kept: set[int] | None, now: float) -> None:
        """Say what became of the tasks of a lane.

        Args:
            group: the tasks.
            kept: which of the batch were stored, by `id`; None: all.
            now: the time, seconds since the epoch.
        """
        going, over, later = group.going, group.over, group.later
        unused: list[Placement] = []
        if kept is not None:
            unused = [task.placement for task in going if id(task) not in kept and task.placement is not None]
            going, over, later = ([task for task in each if id(task) in kept] for each in (going, over, later))
        placed = sum(task.placement is not None for task in going)
        if placed or unused:
            self._dispatcher.placed(group.lane, placed, unused)
        if len(going) + len(over) > placed:
            self._dispatcher.queued(group.lane, len(going) + len(over) - placed, now)
        if later:
            self._timers.scheduled(group.lane.queue, len(later))


def _claimed(task: NewTask, now: float) -> ClaimedTask:
    message, placement = task.message, task.placement
    assert placement is not None
    assignment = Assignment(message.id, message.task, placement.lease, 1, message.args, message.kwargs)
    key = ""
    if message.options is not None:
        assignment.policy = policy_to_send(task.options)
        assignment.starts_within = starts_within(task.expires_at, now)
        key = message.options.key or ""
    return ClaimedTask(
        assignment,
        message.queue,
        message.priority,
        now,
        placement.number,
        task.lane,
        key,
        placement.worker,
        placement.express,
    )


def _conflicts(accepted: Accepted) -> dict[str, list[TaskResult]]:
    """What is told to those whose task was not taken, because its id stands for another one, by reply queue."""
    results: dict[str, list[TaskResult]] = defaultdict(list)
    for task in accepted.conflicts:
        if task.reply_to is not None:
            id_ = task.message.id
            text = f"the id {id_} stands for a task with other content, which goes on; submit this one with a new id"
            error = ErrorInfo(ErrorKind.REFUSED, "Conflict", text)
            results[task.reply_to].append(TaskResult(id_, State.FAILED.value, error=error))
    return results


def _terminal(accepted: Accepted) -> dict[str, list[str]]:
    """Which tasks of a batch are terminal already, refused or finished long ago, by reply queue."""
    ids: dict[str, list[str]] = defaultdict(list)
    for stored in accepted.known:
        if stored.reply_to is not None and stored.task.state in TERMINAL:
            ids[stored.reply_to].append(stored.id)
    for each in accepted.aliases:
        if each.terminal and each.alias.reply_to is not None:
            ids[each.alias.reply_to].append(each.alias.id)
    for task in accepted.stored:
        if task.refusal is not None and task.reply_to is not None:
            ids[task.reply_to].append(task.message.id)
    return ids

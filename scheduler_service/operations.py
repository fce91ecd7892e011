"""What the parts do to the store: each a plain function over a batch, run as one transaction.

They join the statements of `storage` with the rules of `common.states`, and know neither broker nor clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from common.states import TERMINAL, Due, Event, Rules, State, Task, Verdict, transition
from common.wire import TaskResult
from scheduler_service.storage import marks, parked, tasks
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.tasks import ClaimedTask, NewTask, Placement, StoredTask


class Accepted(Struct):
    """What became of a batch of submissions.

    Attributes:
        stored: the new ones.
        known: those that were stored before with the same content.
        conflicts: those whose id stands for something else; they have been parked.
    """

    stored: list[NewTask]
    known: list[StoredTask]
    conflicts: list[NewTask]


def accept(
    connection: Connection, new: Sequence[NewTask], refused: Sequence[ParkedMessage], mark: int, now: float
) -> Accepted:
    """Store submissions whose ids are all new, and park what was refused.

    Raises:
        StoreConflict: one of the ids is known: use `accept_carefully`. (Raised by the store that runs this.)
    """
    tasks.insert(connection, new, now)
    parked.park(connection, refused, now)
    marks.write(connection, marks.CONFIRMED, mark)
    return Accepted(list(new), [], [])


def accept_carefully(
    connection: Connection, new: Sequence[NewTask], refused: Sequence[ParkedMessage], mark: int, now: float
) -> Accepted:
    """As `accept`, for a batch in which ids may be known, or stand twice.

    Same id and same content is the same submission: nothing is stored, and its results are told where it says now.
    Same id and other content is parked; what was stored first is untouched.
    """
    ids = [task.message.id for task in new]
    contents = tasks.contents(connection, ids)
    known = tasks.load(connection, ids)
    stored: list[NewTask] = []
    same: dict[str, StoredTask] = {}
    conflicts: list[NewTask] = []
    for task in new:
        content = _content(task)
        if task.message.id not in contents:
            contents[task.message.id] = content
            stored.append(task)
        elif contents[task.message.id] != content:
            conflicts.append(task)
        elif task.message.id in known:
            found = known[task.message.id]
            if task.reply_to is not None:
                found.reply_to = task.reply_to
                tasks.point(connection, [found.seq], task.reply_to)
            same[found.id] = found
    reports = [_conflict(task) for task in conflicts]
    accept(connection, stored, [*refused, *reports], mark, now)
    return Accepted(stored, list(same.values()), conflicts)


def _content(task: NewTask) -> tuple[str, str, str, str, int, str]:
    message = task.message
    return message.task, task.args, task.kwargs, message.queue, message.priority, task.owner


def _conflict(task: NewTask) -> ParkedMessage:
    return ParkedMessage(
        "submit",
        "conflict",
        f"the id {task.message.id} stands for a task with other content",
        f'{{"task":"{task.message.task}","args":{task.args},"kwargs":{task.kwargs}}}'.encode(),
        task.owner,
        {"id": task.message.id},
    )


class Report(Struct, gc=False):
    """One event about one task, from one worker.

    Attributes:
        id: the task.
        event: what happened.
        worker: who says so, or None.
        run_seconds: the run time by the worker's clock, when it ran.
    """

    id: str
    event: Event
    worker: str | None = None
    run_seconds: float = 0.0


class Applied(Struct, gc=False):
    """What one report did.

    Attributes:
        report: the report.
        verdict: see `Verdict`.
        stored: the task, as it was stored before; None when there is no such task.
        task: the task after the report.
    """

    report: Report
    verdict: Verdict
    stored: StoredTask | None = None
    task: Task | None = None

    @property
    def finished(self) -> bool:
        """Whether this report made the task terminal."""
        return self.verdict is Verdict.CHANGED and self.task is not None and self.task.state in TERMINAL


def apply(connection: Connection, reports: Sequence[Report], rules: Rules, mark: int, now: float) -> list[Applied]:
    """Apply reports, in order, through the transition function, and write each changed task once.

    Raises:
        StoreUnavailable: a task was changed by somebody else; try again.
    """
    known = tasks.load(connection, list({report.id: None for report in reports}))
    latest: dict[str, Task] = {}
    applied: list[Applied] = []
    for report in reports:
        stored = known.get(report.id)
        if stored is None:
            applied.append(Applied(report, Verdict.STALE))
            continue
        before = latest.get(report.id, stored.task)
        step = transition(before, report.event, now, rules)
        if step.verdict is Verdict.CHANGED:
            latest[report.id] = step.task
            stored.worker = report.worker or stored.worker
        applied.append(Applied(report, step.verdict, stored, step.task))
    tasks.save(connection, ((known[id_], task) for id_, task in latest.items()), now)
    marks.write(connection, marks.CONFIRMED, mark)
    return applied


def claim(
    connection: Connection, wanted: Mapping[str, Sequence[Placement]], mark: int, now: float
) -> dict[str, list[ClaimedTask]]:
    """Dispatch queued tasks: for each queue at most as many as it has placements."""
    claimed = {queue: tasks.claim(connection, queue, placements, now) for queue, placements in wanted.items()}
    marks.write(connection, marks.CONFIRMED, mark)
    return claimed


def ripen(connection: Connection, rules: Rules, limit: int, now: float) -> list[StoredTask]:
    """Queue up to `limit` scheduled tasks whose time has come."""
    ripe = tasks.due(connection, now, limit)
    changes = [(stored, transition(stored.task, Due(), now, rules).task) for stored in ripe]
    tasks.save(connection, changes, now)
    return ripe


class Outset(Struct):
    """What the store holds when the scheduler starts.

    Attributes:
        dispatched: the tasks that are out.
        confirmed: the mark up to which the broker has confirmed dispatches.
        backlog: queued tasks by queue.
    """

    dispatched: list[ClaimedTask]
    confirmed: int
    backlog: dict[str, int]


def outset(connection: Connection) -> Outset:
    """Read what a starting scheduler has to know."""
    return Outset(tasks.dispatched(connection), marks.read(connection, marks.CONFIRMED), tasks.backlog(connection))


def write_mark(connection: Connection, mark: int) -> None:
    """Note up to which dispatch the broker has confirmed."""
    marks.write(connection, marks.CONFIRMED, mark)


def wait_for(connection: Connection, ids: Sequence[str], owner: str, reply_to: str) -> tuple[list[str], list[str]]:
    """Which of these tasks are terminal; the others are told at `reply_to` from now on.

    Returns:
        The ids of the terminal ones, and those that are unknown or belong to somebody else.
    """
    found = tasks.load(connection, ids)
    terminal: list[str] = []
    later: list[int] = []
    unknown: list[str] = []
    for id_ in ids:
        stored = found.get(id_)
        if stored is None or stored.owner != owner:
            unknown.append(id_)
        elif stored.task.state in TERMINAL:
            terminal.append(id_)
        elif stored.reply_to != reply_to:
            later.append(stored.seq)
    tasks.point(connection, later, reply_to)
    return terminal, unknown


PAGE_BYTES = 4 * 1024 * 1024
"""Results that are read at a time, about."""


def result_pages(connection: Connection, ids: Sequence[str]) -> list[list[str]]:
    """`ids` cut into pages whose results are few enough to be in memory at a time."""
    sizes = tasks.result_sizes(connection, ids)
    pages: list[list[str]] = []
    room = 0
    for id_ in ids:
        room -= sizes.get(id_, 0)
        if room < 0 or not pages:
            pages.append([])
            room = PAGE_BYTES - sizes.get(id_, 0)
        pages[-1].append(id_)
    return pages


def results_of(connection: Connection, ids: Sequence[str]) -> list[TaskResult]:
    """What clients are told of those of these tasks that are terminal."""
    found = tasks.load(connection, ids)
    results = tasks.results(connection, ids)
    told = []
    for id_, stored in found.items():
        if stored.task.state is State.SUCCEEDED:
            told.append(TaskResult(id_, stored.task.state.value, results[id_]))
        elif stored.task.state in TERMINAL:
            told.append(TaskResult(id_, stored.task.state.value, error=stored.task.error))
    return told


def look_up(connection: Connection, ids: Sequence[str], owner: str) -> tuple[list[StoredTask], list[str]]:
    """The tasks of `owner` among `ids`, and the ids that are not."""
    found = tasks.load(connection, ids)
    mine = [found[id_] for id_ in ids if id_ in found and found[id_].owner == owner]
    have = {stored.id for stored in mine}
    return mine, [id_ for id_ in ids if id_ not in have]


def park(connection: Connection, messages: Sequence[ParkedMessage], now: float) -> None:
    """Keep refused messages."""
    parked.park(connection, messages, now)


def result_of(stored: StoredTask, task: Task) -> TaskResult:
    """What the client is told of a task that has just become terminal."""
    if task.state is State.SUCCEEDED:
        return TaskResult(stored.id, task.state.value, task.result)
    return TaskResult(stored.id, task.state.value, error=task.error)


__all__ = [
    "Accepted",
    "Applied",
    "Outset",
    "Report",
    "accept",
    "accept_carefully",
    "apply",
    "claim",
    "look_up",
    "outset",
    "park",
    "result_of",
    "result_pages",
    "results_of",
    "ripen",
    "wait_for",
    "write_mark",
]

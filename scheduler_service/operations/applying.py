"""Applying what happened to tasks through the transition function: reports of workers, and what ends without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from common.states import TERMINAL, Cancelled, Event, Expired, Failed, Lost, Rules, State, Task, Verdict, transition
from common.wire import ErrorInfo, ErrorKind, TaskResult
from scheduler_service.storage import aliases, attempts, marks, tasks
from scheduler_service.storage.aliases import Alias
from scheduler_service.storage.attempts import FailedAttempt
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.tasks import StoredTask

_DIED = ErrorInfo(ErrorKind.CRASHED, "WorkerDied", "the worker that had it died")
_LOST = ErrorInfo(ErrorKind.CRASHED, "Lost", "no worker has it any more, and none that had it is known to have died")


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
        aliases: the other ids of a task that is terminal now.
    """

    report: Report
    verdict: Verdict
    stored: StoredTask | None = None
    task: Task | None = None
    aliases: Sequence[Alias] = ()

    @property
    def terminal(self) -> bool:
        """Whether the task is terminal, by this report or before."""
        return self.task is not None and self.task.state in TERMINAL

    @property
    def finished(self) -> bool:
        """Whether this report made the task terminal."""
        return self.verdict is Verdict.CHANGED and self.terminal


def apply(connection: Connection, reports: Sequence[Report], rules: Rules, mark: int, now: float) -> list[Applied]:
    """Apply reports, in order, through the transition function, and write each changed task once.

    Raises:
        StoreUnavailable: a task was changed by somebody else; try again.
    """
    known = tasks.load(connection, list({report.id: None for report in reports}))
    latest: dict[str, Task] = {}
    applied: list[Applied] = []
    failed: list[FailedAttempt] = []
    for report in reports:
        stored = known.get(report.id)
        if stored is None:
            applied.append(Applied(report, Verdict.STALE))
            continue
        before = latest.get(report.id, stored.task)
        event = report.event
        step = transition(before, event, now, rules)
        if step.verdict is Verdict.CHANGED:
            latest[report.id] = step.task
            stored.worker = report.worker or stored.worker
            if isinstance(event, Failed | Lost):
                failed.append(FailedAttempt(stored.seq, before.attempt, report.worker, _error_of(event)))
        applied.append(Applied(report, step.verdict, stored, step.task))
    tasks.save(connection, ((known[id_], task) for id_, task in latest.items()), now)
    attempts.record(connection, failed, now)
    aliased = [each for each in applied if each.stored is not None and each.stored.aliased and each.terminal]
    if aliased:
        others = aliases.of(connection, [each.report.id for each in aliased])
        for each in aliased:
            each.aliases = others.get(each.report.id, ())
    marks.write(connection, marks.CONFIRMED, mark)
    return applied


def _error_of(event: Failed | Lost) -> ErrorInfo:
    if isinstance(event, Failed):
        return event.error
    return _DIED if event.holder_died else _LOST


class Ended(Struct, gc=False):
    """A task that became terminal without a reply: cancelled or expired.

    Attributes:
        stored: the task, as it was stored before.
        task: the task now.
        aliases: its other ids.
    """

    stored: StoredTask
    task: Task
    aliases: Sequence[Alias] = ()


def end(
    connection: Connection, found: Sequence[StoredTask], event: Cancelled | Expired, rules: Rules, now: float
) -> list[Ended]:
    """Apply an event that ends tasks to each of `found`, as far as it changes them."""
    steps = [(stored, transition(stored.task, event, now, rules)) for stored in found]
    ended = [Ended(stored, step.task) for stored, step in steps if step.verdict is Verdict.CHANGED]
    tasks.save(connection, ((each.stored, each.task) for each in ended), now)
    others = aliases.of(connection, [each.stored.id for each in ended if each.stored.aliased])
    for each in ended:
        each.aliases = others.get(each.stored.id, ())
    return ended


def results_to_tell(
    stored: StoredTask, task: Task, others: Sequence[Alias], tell: Callable[[str, TaskResult], None]
) -> None:
    """Give `tell` what each of those who wait for a task that has just ended is told: the reply queue, the result."""
    if stored.reply_to is not None:
        tell(stored.reply_to, result_of(stored.id, task))
    for alias in others:
        if alias.reply_to is not None:
            tell(alias.reply_to, result_of(alias.id, task))


def result_of(id_: str, task: Task) -> TaskResult:
    """What the client is told, under the id that it knows, of a task that has just become terminal."""
    if task.state is State.SUCCEEDED:
        return TaskResult(id_, task.state.value, task.result)
    return TaskResult(id_, task.state.value, error=task.error)

"""Applying what happened to tasks through the transition function: reports of workers, and what ends without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Raw, Struct

from common.states import (
    TERMINAL,
    Cancelled,
    Event,
    Expired,
    Failed,
    Lost,
    Rules,
    State,
    Succeeded,
    Task,
    Verdict,
    transition,
)
from common.wire import ErrorInfo, ErrorKind, TaskResult
from scheduler_service.storage import aliases, attempts, marks, tasks
from scheduler_service.storage import successes as short_way
from scheduler_service.storage.aliases import Alias
from scheduler_service.storage.attempts import FailedAttempt
from scheduler_service.storage.engine import Connection
from scheduler_service.storage.successes import SucceededTask, Success
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


class Finished(Struct, gc=False):
    """A success that went the short way.

    Attributes:
        lease, run_seconds, result: as its worker said.
        task: what was stored of the task.
        aliases: its other ids.
    """

    lease: str
    run_seconds: float
    result: Raw
    task: SucceededTask
    aliases: Sequence[Alias] = ()


class Outcomes(Struct):
    """What reports did.

    Attributes:
        finished: the successes that were as expected.
        applied: all other reports, in order.
    """

    finished: list[Finished]
    applied: list[Applied]


def apply(connection: Connection, reports: Sequence[Report], rules: Rules, mark: int, now: float) -> Outcomes:
    """Apply reports, and write each changed task once.

    A success of which nothing else is said in the same batch is written by one statement (`storage.successes`); what
    that does not take goes through the transition function, in order.

    Raises:
        StoreUnavailable: a task was changed by somebody else; try again.
        ValueError: a result is no UTF-8.
    """
    finished = _finish(connection, reports, now)
    if finished:
        done = {each.task.id for each in finished}
        reports = [report for report in reports if report.id not in done] if len(done) < len(reports) else ()
    applied = _apply(connection, reports, rules, now) if reports else []
    marks.write(connection, marks.CONFIRMED, mark)
    return Outcomes(finished, applied)


def _finish(connection: Connection, reports: Sequence[Report], now: float) -> list[Finished]:
    successes: dict[str, tuple[Report, Succeeded]] = {}
    for report in reports:
        event = report.event
        if type(event) is Succeeded and report.worker is not None:
            successes[report.id] = (report, event)
    if len(successes) < len(reports):
        for id_, count in Counter(report.id for report in reports).items():
            if count > 1:
                successes.pop(id_, None)
    if not successes:
        return []
    said = [
        Success(report.id, event.lease, event.attempt, str(event.result, "utf-8"), report.worker or "")
        for report, event in successes.values()
    ]
    finished: list[Finished] = []
    for task in short_way.succeed(connection, said, now):
        report, event = successes[task.id]
        finished.append(Finished(event.lease, report.run_seconds, event.result, task))
    aliased = [each for each in finished if each.task.aliased]
    if aliased:
        others = aliases.of(connection, [each.task.id for each in aliased])
        for each in aliased:
            each.aliases = others.get(each.task.id, ())
    return finished


def _apply(connection: Connection, reports: Sequence[Report], rules: Rules, now: float) -> list[Applied]:
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

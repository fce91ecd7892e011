"""What the stand-in for the scheduler answers to questions about many tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from common.ids import new_task_id
from common.options import TaskOptions
from common.questions import (
    Cancel,
    Cancelled,
    Dead,
    DeadLetter,
    DeadLetters,
    DeadVerb,
    Filter,
    ListTasks,
    Statuses,
    TaskStatus,
)
from common.wire import Message, TaskResult, decode, encode
from tests.support.stand_in_administration import administer

T = TypeVar("T")

if TYPE_CHECKING:
    from tests.support.stand_in import StandIn


def answer(stand_in: StandIn, kind: str | None, body: bytes) -> Message:
    """The answer to a question."""
    if kind == ListTasks.TYPE:
        return _list(stand_in, decode(ListTasks, body))
    if kind == Cancel.TYPE:
        return _cancel(stand_in, decode(Cancel, body))
    if (answered := administer(stand_in, kind, body)) is not None:
        return answered
    assert kind == Dead.TYPE
    return _dead(stand_in, decode(Dead, body))


def describe(stand_in: StandIn, task_id: str, *, whole: bool) -> TaskStatus:
    """How a task is; with its attempts if `whole`."""
    result, task = stand_in.results.get(task_id), stand_in.tasks[task_id]
    options = task.options or TaskOptions()
    progress = stand_in.progress.get(task_id) if result is None else None
    state = "running" if progress else "scheduled" if options.delay or options.run_at else "queued"
    return TaskStatus(
        task_id,
        state if result is None else result.state,
        task.task,
        task.queue,
        task.priority,
        worker="host-1" if progress else "",
        submitted_at=stand_in.submitted_at[task_id],
        error=None if result is None else result.error,
        due_at=stand_in.submitted_at[task_id] + (options.delay or 0.0) if result is None else 0.0,
        progress=progress,
        attempts=stand_in.attempts.get(task_id, []) if whole else [],
        key=options.key or "",
        labels=options.labels or {},
        replay_of=options.replay_of or "",
    )


def _list(stand_in: StandIn, question: ListTasks) -> Statuses:
    ids = [task_id for task_id in stand_in.tasks if holds(stand_in, question.where, task_id)][::-1]
    page, after = _page(ids, question.after or 0, question.limit)
    return Statuses([describe(stand_in, task_id, whole=False) for task_id in page], next=after)


def _cancel(stand_in: StandIn, question: Cancel) -> Cancelled:
    where = question.where
    places = list(enumerate(stand_in.tasks))[question.after or 0 :]
    found = [(place, task_id) for place, task_id in places if holds(stand_in, where, task_id)]
    page = [task_id for _, task_id in found[: stand_in.page]]
    # A place in the order of all tasks, since what is cancelled may not be among those that are meant any more.
    after = found[stand_in.page - 1][0] + 1 if len(found) > stand_in.page else None
    states = {}
    for task_id in page:
        if task_id not in stand_in.results:
            stand_in.results[task_id] = TaskResult(task_id, "cancelled")
            stand_in.tell(task_id)
        states[task_id] = stand_in.results[task_id].state
    unknown = [task_id for task_id in where.ids or () if task_id not in stand_in.tasks] if after is None else []
    return Cancelled(states, unknown, after)


def _dead(stand_in: StandIn, question: Dead) -> DeadLetters:
    if question.parked is not None:
        letters = [letter for letter in stand_in.parked if letter.parked in question.parked]
    else:
        failed = [task_id for task_id, result in stand_in.results.items() if result.state == "failed"]
        letters = [_letter(stand_in, task_id) for task_id in failed if holds(stand_in, question.where, task_id)]
        letters += stand_in.parked if question.where == Filter() else []
    letters = [letter for letter in letters if question.reason in (None, letter.reason)]
    # What is purged is gone, so the next page begins where this one did.
    page, after = _page(letters, int(question.after or 0), question.limit)
    for letter in page:
        if question.verb is DeadVerb.SHOW and letter.id:
            letter.payload = encode(stand_in.tasks[letter.id]).decode()
        elif question.verb is DeadVerb.REPLAY and letter.id:
            letter.replayed_as = stand_in.replays.setdefault(letter.id, new_task_id())
        elif question.verb is DeadVerb.PURGE:
            stand_in.results.pop(letter.id, None)
            stand_in.parked = [other for other in stand_in.parked if other.parked != letter.parked or letter.id]
    if question.verb is DeadVerb.PURGE and after is not None:
        after = int(question.after or 0)
    return DeadLetters(page, None if after is None else str(after))


def _letter(stand_in: StandIn, task_id: str) -> DeadLetter:
    task, error = stand_in.tasks[task_id], stand_in.results[task_id].error
    assert error is not None
    at = stand_in.submitted_at[task_id]
    replayed_as = stand_in.replays.get(task_id, "")
    return DeadLetter(
        task_id, 0, at, "submit", str(error.kind), f"{error.type}: {error.message}", task.task, task.queue, replayed_as
    )


def holds(stand_in: StandIn, where: Filter, task_id: str) -> bool:
    """Whether all of a filter applies to a task."""
    if task_id not in stand_in.tasks:
        return False
    status = describe(stand_in, task_id, whole=False)
    return (
        (where.states is None or status.state in where.states)
        and where.task in (None, status.task)
        and where.queue in (None, status.queue)
        and where.key in (None, status.key)
        and (where.labels or {}).items() <= status.labels.items()
        and (where.since is None or status.submitted_at >= where.since)
        and (where.until is None or status.submitted_at < where.until)
        and (where.ids is None or task_id in where.ids)
    )


def _page(items: list[T], start: int, count: int) -> tuple[list[T], int | None]:
    end = start + count
    return items[start:end], end if end < len(items) else None

"""The life of a task: its states, and the one function that holds all the rules.

::

    queued ──dispatch──> dispatched ──succeeded──> succeeded
      ^                    │  │  └────failed─────> failed
      │                    │  │
      └──due── scheduled <─┘  └──returned, lost──> queued    (a new attempt, perhaps as a suspect)

`succeeded`, `failed`, `cancelled` and `expired` are terminal and never change. `transition` is pure: no clock, no
I/O, no globals. A shell reads the task, calls it, and writes what it returns in one compare-and-set on attempt and
lease, so that late, doubled and forged replies change nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Raw, Struct
from msgspec.structs import replace

from common.wire import NULL, ErrorInfo, ErrorKind, Isolation

__all__ = [
    "TERMINAL",
    "Due",
    "Event",
    "Failed",
    "Held",
    "Lost",
    "Returned",
    "Rules",
    "State",
    "Succeeded",
    "Task",
    "Transition",
    "Verdict",
    "transition",
]


class State(StrEnum):
    """Where a task stands. `running` is not stored: it is known from the beats of live workers."""

    SCHEDULED = "scheduled"
    """Due later."""
    QUEUED = "queued"
    """In the store, to be dispatched when its queue's window has room."""
    DISPATCHED = "dispatched"
    """Given out under a lease."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})


class Task(Struct, frozen=True, gc=False):
    """What the rules read and change of a task.

    Attributes:
        state: see `State`.
        attempt: dispatches that counted so far; the number of the current one while dispatched.
        lease: the current dispatch's lease, or an empty string.
        crashes: deaths that were proved to be this task's doing.
        isolation: how the next (or current) attempt is run; anything but `none` marks a suspect.
        unknown_since: when a worker first said that it does not know the function, seconds since the epoch, or None.
        due_at: when a scheduled task becomes queued, seconds since the epoch, or None.
        held: its delivery has been acked while it runs, so that only beats tell of it.
        result: the stored result of a success.
        error: the stored error of a failure.
    """

    state: State
    attempt: int = 0
    lease: str = ""
    crashes: int = 0
    isolation: Isolation = Isolation.NONE
    unknown_since: float | None = None
    due_at: float | None = None
    held: bool = False
    result: Raw = NULL
    error: ErrorInfo | None = None


class Rules(Struct, frozen=True):
    """The limits that the rules apply.

    Attributes:
        max_crashes: a task fails when it has killed the process that ran it this often (1 or more).
        unknown_function_grace: seconds for which an unknown function is tried again, since a deploy may be rolling.
        unknown_function_wait: seconds between two such tries.
    """

    max_crashes: int = 2
    unknown_function_grace: float = 60.0
    unknown_function_wait: float = 1.0


class Succeeded(Struct, frozen=True, gc=False):
    """The handler returned."""

    attempt: int
    lease: str
    result: Raw = NULL


class Failed(Struct, frozen=True, gc=False):
    """The handler raised, could not be called, or its child process died (kind `crashed`)."""

    attempt: int
    lease: str
    error: ErrorInfo


class Returned(Struct, frozen=True, gc=False):
    """The lease came back without a fault of the task: drain, no free slot. It costs no attempt."""

    lease: str


class UnknownFunction(Struct, frozen=True, gc=False):
    """The lease came back because the worker does not know the function.

    Attributes:
        lease: the lease.
        error: what the task fails with when the grace time is over.
        known: another live worker of the queue knows it; it is busy, and the grace time does not run.
    """

    lease: str
    error: ErrorInfo
    known: bool = False


class Lost(Struct, frozen=True, gc=False):
    """The lease is in nobody's hands any more.

    Attributes:
        lease: the lease.
        holder_died: a worker that held it, or may have held it, died: the task may have killed it.
        started: that worker had said that the task was running.
    """

    lease: str
    holder_died: bool
    started: bool = False


class Held(Struct, frozen=True, gc=False):
    """The worker has acked the delivery and goes on running; its beats own the task from now on."""

    lease: str


class Due(Struct, frozen=True, gc=False):
    """The time of a scheduled task has come."""


Event = Succeeded | Failed | Returned | UnknownFunction | Lost | Held | Due


class Verdict(StrEnum):
    """What an event meant for a task."""

    CHANGED = "changed"
    STALE = "stale"
    """The event is about a lease that is not the current one, or the task is in no state for it."""
    REPEATED = "repeated"
    """The task is terminal already: nothing changes, but whoever waits is told again."""


class Transition(Struct, frozen=True, gc=False):
    """What `transition` decided.

    Attributes:
        verdict: see `Verdict`.
        task: the task after the event; the same object when nothing changed.
    """

    verdict: Verdict
    task: Task

    @property
    def tell(self) -> bool:
        """Whether the client is to be told: whenever the task is terminal, even when this event changed nothing."""
        return self.task.state in TERMINAL


def transition(task: Task, event: Event, now: float, rules: Rules) -> Transition:
    """Apply one event to one task.

    Args:
        task: the task as stored.
        event: what happened.
        now: the time, seconds since the epoch.
        rules: the limits.

    Returns:
        The verdict, and the task as it has to be stored.
    """
    if task.state in TERMINAL:
        return Transition(Verdict.REPEATED, task)
    if isinstance(event, Due):
        if task.state is not State.SCHEDULED:
            return Transition(Verdict.STALE, task)
        return _changed(replace(task, state=State.QUEUED, due_at=None))
    if task.state is not State.DISPATCHED or event.lease != task.lease:
        return Transition(Verdict.STALE, task)
    if isinstance(event, Succeeded):
        if event.attempt != task.attempt:
            return Transition(Verdict.STALE, task)
        return _changed(replace(task, state=State.SUCCEEDED, result=event.result))
    if isinstance(event, Failed):
        return _failed(task, event, rules)
    if isinstance(event, Returned):
        return _changed(_queued(task, attempt=task.attempt - 1))
    if isinstance(event, UnknownFunction):
        return _changed(_unknown_function(task, event, now, rules))
    if isinstance(event, Held):
        return _changed(replace(task, held=True, unknown_since=None))
    return _changed(replace(_lost(task, event, rules), unknown_since=None))


def _changed(task: Task) -> Transition:
    return Transition(Verdict.CHANGED, task)


def _queued(task: Task, *, attempt: int, isolation: Isolation | None = None) -> Task:
    return replace(
        task,
        state=State.QUEUED,
        attempt=attempt,
        lease="",
        held=False,
        isolation=task.isolation if isolation is None else isolation,
    )


def _failed(task: Task, event: Failed, rules: Rules) -> Transition:
    if event.attempt != task.attempt:
        return Transition(Verdict.STALE, task)
    if event.error.kind is not ErrorKind.CRASHED:
        return _changed(replace(task, state=State.FAILED, error=event.error))
    crashes = task.crashes + 1
    if crashes >= rules.max_crashes:
        return _changed(replace(task, state=State.FAILED, error=event.error, crashes=crashes))
    again = _queued(task, attempt=task.attempt, isolation=max_isolation(task.isolation, Isolation.CHILD))
    return _changed(replace(again, crashes=crashes, unknown_since=None))


def _unknown_function(task: Task, event: UnknownFunction, now: float, rules: Rules) -> Task:
    since = now if task.unknown_since is None or event.known else task.unknown_since
    if now - since >= rules.unknown_function_grace:
        return replace(task, state=State.FAILED, error=event.error)
    waiting = _queued(task, attempt=task.attempt - 1)
    return replace(waiting, state=State.SCHEDULED, due_at=now + rules.unknown_function_wait, unknown_since=since)


def _lost(task: Task, event: Lost, rules: Rules) -> Task:
    if not event.holder_died:
        return _queued(task, attempt=task.attempt)
    if task.isolation is Isolation.ALONE and not event.started:
        # It had not begun to run: whatever took the worker down, it was not this task.
        return _queued(task, attempt=task.attempt)
    if task.isolation is Isolation.ALONE:
        # It ran in a worker that ran nothing else, and took that down: a proved crash.
        crashes = task.crashes + 1
        if crashes >= rules.max_crashes:
            error = ErrorInfo(
                ErrorKind.CRASHED, "WorkerDied", "the worker died each time it ran this task and nothing else"
            )
            return replace(task, state=State.FAILED, error=error, crashes=crashes)
        return replace(_queued(task, attempt=task.attempt), crashes=crashes)
    step = Isolation.CHILD if task.isolation is Isolation.NONE else Isolation.ALONE
    return _queued(task, attempt=task.attempt, isolation=step)


_STEPS: Final = (Isolation.NONE, Isolation.CHILD, Isolation.ALONE)


def max_isolation(one: Isolation, other: Isolation) -> Isolation:
    """The stricter of two isolations."""
    return max(one, other, key=_STEPS.index)

"""The life of a task: its states, and the one function that holds all the rules.

::

    queued ──dispatch──> dispatched ──succeeded──> succeeded
      ^                    │  │  └────failed─────> failed
      │                    │  │
      └──due── scheduled <─┘  └──returned, lost──> queued    (a new attempt, perhaps as a suspect)

    each of these three ──cancel──> cancelled, and, when its time is over before it was started, ──> expired

A failed attempt with retries left goes back to `scheduled`, and waits there for its backoff.

`succeeded`, `failed`, `cancelled` and `expired` are terminal and never change. `transition` is pure: no clock, no
I/O, no globals. A shell reads the task, calls it, and writes what it returns in one compare-and-set on attempt and
lease, so that late, doubled and forged replies change nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Raw, Struct
from msgspec.structs import replace

from common.options import REQUESTED_RETRIES, Backoff
from common.wire import NULL, Advice, ErrorInfo, ErrorKind, Isolation

__all__ = [
    "TERMINAL",
    "Cancelled",
    "Due",
    "Event",
    "Expired",
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
        error: the stored error of a failure; of a task that waits for its retry, that of the last attempt.
        failures: how often it has failed and was tried again, crashes left out.
        expires_at: by when it has to be started, seconds since the epoch, or None.
        max_crashes: as `Rules.max_crashes`, when the submission says.
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
    failures: int = 0
    expires_at: float | None = None
    max_crashes: int | None = None


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
    """The handler raised, could not be called, or its child process died (kind `crashed`).

    Attributes:
        attempt, lease: which dispatch.
        error: what happened.
        advice: what the worker knows about trying again; None when nothing is to be tried.
        dice: a random number from 0 to 1, for the jitter of the backoff.
    """

    attempt: int
    lease: str
    error: ErrorInfo
    advice: Advice | None = None
    dice: float = 1.0


class Returned(Struct, frozen=True, gc=False):
    """The lease came back without a fault of the task: drain, no free slot. It costs no attempt."""

    lease: str


class UnknownFunction(Struct, frozen=True, gc=False):
    """The lease came back because the worker does not know the function.

    Attributes:
        lease: the lease.
        error: what the task fails with when the grace time is over.
        known: other workers know it; whether they are busy or gone for now, the grace time does not run.
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


class Expired(Struct, frozen=True, gc=False):
    """The time by which it had to be started may be over.

    Attributes:
        lease: of a dispatched task: the worker says that it has not started it. Empty for one that waits here.
    """

    lease: str = ""


class Cancelled(Struct, frozen=True, gc=False):
    """Somebody who may does not want it any more. Between this and an outcome, the one that is stored first wins."""


Event = Succeeded | Failed | Returned | UnknownFunction | Lost | Held | Due | Expired | Cancelled


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
    if isinstance(event, Cancelled):
        return _changed(replace(task, state=State.CANCELLED, due_at=None, error=None))
    if isinstance(event, Due):
        if task.state is not State.SCHEDULED:
            return Transition(Verdict.STALE, task)
        return _changed(replace(task, state=State.QUEUED, due_at=None))
    if isinstance(event, Expired) and not event.lease:
        return _expired(task, now)
    if task.state is not State.DISPATCHED or event.lease != task.lease:
        return Transition(Verdict.STALE, task)
    if isinstance(event, Succeeded):
        if event.attempt != task.attempt:
            return Transition(Verdict.STALE, task)
        return _changed(replace(task, state=State.SUCCEEDED, result=event.result, error=None))
    if isinstance(event, Failed):
        return _failed(task, event, now, rules)
    if isinstance(event, Expired):
        return _changed(replace(task, state=State.EXPIRED, error=None))
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


def _expired(task: Task, now: float) -> Transition:
    """A task that waits here expires at its time; one that is dispatched may have been started."""
    if task.state is State.DISPATCHED or task.expires_at is None or task.expires_at > now:
        return Transition(Verdict.STALE, task)
    return _changed(replace(task, state=State.EXPIRED, due_at=None, error=None))


def _failed(task: Task, event: Failed, now: float, rules: Rules) -> Transition:
    if event.attempt != task.attempt:
        return Transition(Verdict.STALE, task)
    advice = event.advice
    if event.error.kind is not ErrorKind.CRASHED:
        wait = None if advice is None else _retry_wait(task, event, advice)
        if wait is None:
            return _changed(replace(task, state=State.FAILED, error=event.error))
        waiting = replace(_queued(task, attempt=task.attempt), state=State.SCHEDULED, due_at=now + wait)
        return _changed(replace(waiting, error=event.error, failures=task.failures + 1, unknown_since=None))
    crashes = task.crashes + 1
    if crashes >= _max_crashes(task, rules, advice):
        return _changed(replace(task, state=State.FAILED, error=event.error, crashes=crashes))
    again = _queued(task, attempt=task.attempt, isolation=max_isolation(task.isolation, Isolation.CHILD))
    return _changed(replace(again, crashes=crashes, unknown_since=None))


def _retry_wait(task: Task, event: Failed, advice: Advice) -> float | None:
    """Seconds until the next attempt; None when there is none."""
    if advice.give_up:
        return None
    asked = event.error.kind is ErrorKind.RETRY
    retries = advice.retries
    if retries is None:
        retries = REQUESTED_RETRIES if asked else 0
    if task.failures >= retries:
        return None
    if advice.after is not None:
        return advice.after
    return (advice.backoff or Backoff()).wait(task.failures + 1, event.dice)


def _max_crashes(task: Task, rules: Rules, advice: Advice | None = None) -> int:
    if task.max_crashes is not None:
        return task.max_crashes
    if advice is not None and advice.max_crashes is not None:
        return advice.max_crashes
    return rules.max_crashes


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
        if crashes >= _max_crashes(task, rules):
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

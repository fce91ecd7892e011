"""What clients ask the scheduler, and what it answers: status, lists, cancelling, dead letters, progress.

The rules of `common.wire` hold here too: unknown fields are ignored, optional ones at their default are left out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta, Struct, field

from common.wire import DEFAULT_PRIORITY, MAX_PACK_ITEMS, ErrorInfo, Message, TaskId


class AskKind(StrEnum):
    """What a client asks about tasks."""

    WAIT = "wait"
    """Tell me those that are terminal now, and the others at this reply queue from now on."""
    STATUS = "status"
    """Describe them."""


class Ask(Message):
    """Client to scheduler: a question about many tasks, answered to ``reply_to`` (``warren.ask.v1``)."""

    TYPE: ClassVar[str] = "warren.ask.v1"

    kind: AskKind
    ids: Annotated[list[TaskId], Meta(max_length=MAX_PACK_ITEMS)]


class Filter(Struct, omit_defaults=True, frozen=True, kw_only=True):
    """Which tasks: those of the asking user to which all of this applies.

    Attributes:
        states: stored states.
        task, queue, key: exact.
        labels: each of them has to be there with this value.
        since, until: the time of submission, seconds since the epoch.
        ids: only these.
    """

    states: Annotated[list[str], Meta(max_length=10)] | None = None
    task: str | None = None
    queue: str | None = None
    key: str | None = None
    labels: dict[str, str] | None = None
    since: float | None = None
    until: float | None = None
    ids: Annotated[list[TaskId], Meta(max_length=MAX_PACK_ITEMS)] | None = None


class ListTasks(Message, omit_defaults=True):
    """Client to scheduler: describe these tasks, the newest first (``warren.list.v1``); answered by `Statuses`.

    Attributes:
        where: which.
        after: go on behind this place, the `next` of the page before.
        limit: tasks at most.
    """

    TYPE: ClassVar[str] = "warren.list.v1"

    where: Filter
    after: int | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PACK_ITEMS)] = 100


class Cancel(Message, omit_defaults=True):
    """Client to scheduler: cancel these tasks (``warren.cancel.v1``); answered by `Cancelled`.

    Attributes:
        where: which; those that are terminal stay as they are.
        after: go on behind this place.
    """

    TYPE: ClassVar[str] = "warren.cancel.v1"

    where: Filter
    after: int | None = None


class Cancelled(Message, omit_defaults=True):
    """Scheduler to client: what became of a page of tasks to be cancelled (``warren.cancelled.v1``).

    Attributes:
        states: the state of each task now, by id: `cancelled`, or another terminal state that came first.
        unknown: ids that the scheduler does not have.
        next: where the next page begins; None after the last.
    """

    TYPE: ClassVar[str] = "warren.cancelled.v1"

    states: dict[str, str]
    unknown: list[str] = field(default_factory=list)
    next: int | None = None


ParkedNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""What the database counts parked messages with."""


class DeadVerb(StrEnum):
    """What is done with dead letters."""

    LIST = "list"
    SHOW = "show"
    """As `list`, with the payload."""
    REPLAY = "replay"
    """Submit the failed tasks again, each as a new task with `replay_of`, unless that was done before."""
    PURGE = "purge"
    """Forget them."""


class Dead(Message, omit_defaults=True):
    """Client to scheduler: about what failed and what was refused (``warren.dead.v1``); answered by `DeadLetters`.

    Attributes:
        verb: what to do with a page of them.
        where: which; `states` is not used. `reason` is the error kind of a task, or why a message was parked.
        reason: only of this reason.
        parked: the numbers of parked messages, in place of `where`.
        after, limit: the page.
    """

    TYPE: ClassVar[str] = "warren.dead.v1"

    verb: DeadVerb
    where: Filter = Filter()
    reason: str | None = None
    parked: Annotated[list[ParkedNumber], Meta(max_length=MAX_PACK_ITEMS)] | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PACK_ITEMS)] = 100


class DeadLetter(Struct, omit_defaults=True):
    """A failed task, or a refused message.

    Attributes:
        id: the task's id; empty for a message that is no task.
        parked: the message's number; 0 for a failed task.
        at: when it died, seconds since the epoch.
        origin: the queue it came from.
        reason: an error kind, or why it was refused.
        detail: one sentence.
        task, queue: of a task.
        replayed_as: the id of the task that repeats it.
        payload: with `show`: the task as submitted, or the message's body as text.
    """

    id: str = ""
    parked: int = 0
    at: float = 0.0
    origin: str = ""
    reason: str = ""
    detail: str = ""
    task: str = ""
    queue: str = ""
    replayed_as: str = ""
    payload: str = ""


class DeadLetters(Message, omit_defaults=True):
    """Scheduler to client: a page of dead letters, or what was done with it (``warren.dead-letters.v1``).

    Attributes:
        letters: the page, after what was done.
        next: where the next page begins; None after the last.
    """

    TYPE: ClassVar[str] = "warren.dead-letters.v1"

    letters: list[DeadLetter]
    next: str | None = None


class Progress(Struct, omit_defaults=True):
    """How far a running task is, as it says itself.

    Attributes:
        done: how much is done.
        total: of how much; 0 when it does not know.
        note: what it is doing.
        at: when it said so, seconds since the epoch by the worker's clock.
    """

    done: float = 0.0
    total: float = 0.0
    note: Annotated[str, Meta(max_length=200)] = ""
    at: float = 0.0


class ProgressReport(Message):
    """Worker to schedulers, by lease (``warren.progress.v1``); not kept anywhere but in memory."""

    TYPE: ClassVar[str] = "warren.progress.v1"

    worker: str
    progress: dict[str, Progress]


class AttemptRecord(Struct, omit_defaults=True):
    """One attempt that did not succeed.

    Attributes:
        attempt: its number.
        at: when it ended, seconds since the epoch.
        worker: where it ran.
        error: what happened.
    """

    attempt: int
    at: float
    worker: str = ""
    error: ErrorInfo | None = None


class TaskStatus(Struct, omit_defaults=True):
    """One task as the scheduler sees it now. Times are seconds since the epoch (UTC) by the scheduler's clock."""

    id: str
    state: str
    """A stored state, or ``running`` when a live worker says so."""
    task: str = ""
    queue: str = ""
    priority: int = DEFAULT_PRIORITY
    attempt: int = 0
    worker: str = ""
    submitted_at: float = 0.0
    dispatched_at: float = 0.0
    finished_at: float = 0.0
    note: str = ""
    """Why it waits, in a sentence, when there is something to say."""
    error: ErrorInfo | None = None
    due_at: float = 0.0
    expires_at: float = 0.0
    failures: int = 0
    progress: Progress | None = None
    attempts: list[AttemptRecord] = []
    """Those that failed; only when one task is asked about."""
    key: str = ""
    labels: dict[str, str] = {}
    parent: str = ""
    replay_of: str = ""
    alias_of: str = ""
    """The task that this id stands for, because of an idempotency key or `unique`."""


class Statuses(Message, omit_defaults=True):
    """Scheduler to client: the answer to a `status` question and to a list (``warren.statuses.v1``)."""

    TYPE: ClassVar[str] = "warren.statuses.v1"

    statuses: list[TaskStatus]
    unknown: list[str] = field(default_factory=list)
    next: int | None = None

"""What operators ask the scheduler, and what it answers: queues, workers, quotas, moving, commands to workers.

The rules of `common.questions` hold here too: each question may be asked twice. Who changes something has to be an
operator: a broker user named by the scheduler's setting `operators`, or the scheduler's own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from common.questions import Filter
from common.quotas import MAX_WEIGHT, MIN_WEIGHT, Quota, QuotaName, Rate, Scope
from common.wire import EMPTY_KWARGS, MAX_PACK_ITEMS, ControlVerb, Load, Message, Priority, QueueName

LONGEST_WAIT = 30.0
"""Seconds that workers have to answer a command at most."""


OPERATED = (
    ControlVerb.PING,
    ControlVerb.STATS,
    ControlVerb.STACKS,
    ControlVerb.DRAIN,
    ControlVerb.RESUME,
    ControlVerb.SLOTS,
    ControlVerb.SHUTDOWN,
    ControlVerb.LOG_LEVEL,
)
"""What operators can have workers do."""


class ListQueues(Message, omit_defaults=True):
    """Client to scheduler: describe the queues (``warren.list-queues.v1``); answered by `Queues`.

    Attributes:
        names: only these; None: all.
    """

    TYPE: ClassVar[str] = "warren.list-queues.v1"

    names: Annotated[list[QueueName], Meta(max_length=MAX_PACK_ITEMS)] | None = None


class QueueReport(Struct, omit_defaults=True):
    """One queue as the scheduler sees it now.

    Attributes:
        name: the queue.
        queued, scheduled, dispatched, running: how many tasks are in each state; `dispatched` without those that run.
        unrunnable: how many of the queued no live worker can run.
        oldest: seconds for which the queued task that is oldest has been due; 0 without any.
        accepted, finished: tasks a second, over the last minute.
        drain_seconds: until what is queued is done at the present rate and slots; None when it never will be.
        workers, slots: that serve it now.
        recommended_workers: how many it would take.
        window: how many tasks may be dispatched and unfinished.
        quota: what it may have.
        note: why nothing is dispatched, in a sentence; empty when it is.
        limited: how many of the queued a pause or a limit holds back now.
    """

    name: str
    queued: int = 0
    scheduled: int = 0
    dispatched: int = 0
    running: int = 0
    unrunnable: int = 0
    oldest: float = 0.0
    accepted: float = 0.0
    finished: float = 0.0
    drain_seconds: float | None = None
    workers: int = 0
    slots: int = 0
    recommended_workers: int = 0
    window: int = 0
    quota: Quota | None = None
    note: str = ""
    limited: int = 0


class Queues(Message):
    """Scheduler to client: the queues (``warren.queues.v1``)."""

    TYPE: ClassVar[str] = "warren.queues.v1"

    queues: list[QueueReport]


class ListWorkers(Message):
    """Client to scheduler: describe the workers (``warren.list-workers.v1``); answered by `Workers`."""

    TYPE: ClassVar[str] = "warren.list-workers.v1"


class WorkerState(StrEnum):
    """How a worker is."""

    ALIVE = "alive"
    PAUSED = "paused"
    """An operator has told it to take nothing."""
    DRAINING = "draining"
    """It is about to end."""
    SILENT = "silent"
    """It should have beaten by now, or its connection is gone; it is not given up yet."""
    LOST = "lost"
    """It died; it is shown for some time."""


class RunningAttempt(Struct, omit_defaults=True):
    """What a worker runs.

    Attributes:
        id, task, queue, attempt: the task; empty when the scheduler does not know the lease.
        age: seconds for which it has run.
        lease: its lease.
    """

    lease: str
    age: float = 0.0
    id: str = ""
    task: str = ""
    queue: str = ""
    attempt: int = 0


class WorkerReport(Struct, omit_defaults=True):
    """One worker as its last beat says.

    Attributes:
        worker: its id.
        state: how it is.
        heard: seconds since its last beat.
        slots, capacity, processes: as in the beat.
        waiting: how many attempts wait in it for a slot.
        started_at: seconds since the epoch, by its clock.
        running: the oldest of those that run; of a large fleet not all are listed.
        busy: how many run.
    """

    worker: str
    state: WorkerState
    heard: float
    host: str = ""
    pid: int = 0
    version: str = ""
    started_at: float = 0.0
    queues: list[str] = []
    labels: list[str] = []
    functions: list[str] = []
    slots: int = 0
    capacity: int = 0
    processes: int = 0
    waiting: int = 0
    running: list[RunningAttempt] = []
    load: Load = Load()
    busy: int = 0


class Workers(Message):
    """Scheduler to client: the workers (``warren.workers.v1``)."""

    TYPE: ClassVar[str] = "warren.workers.v1"

    workers: list[WorkerReport]


class SetQuota(Message, omit_defaults=True):
    """Operator to scheduler: change a quota (``warren.set-quota.v1``); answered by `Quotas`.

    What is left out stays as it is; null takes a limit away.
    """

    TYPE: ClassVar[str] = "warren.set-quota.v1"

    scope: Scope
    name: QuotaName
    weight: Annotated[float, Meta(ge=MIN_WEIGHT, le=MAX_WEIGHT)] | UnsetType = UNSET
    rate: Rate | UnsetType | None = UNSET
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    ageing: Annotated[float, Meta(gt=0, le=86_400 * 366)] | UnsetType | None = UNSET


class ListQuotas(Message, omit_defaults=True):
    """Client to scheduler: every quota that was set (``warren.list-quotas.v1``); answered by `Quotas`."""

    TYPE: ClassVar[str] = "warren.list-quotas.v1"

    scope: Scope | None = None


class Quotas(Message, omit_defaults=True):
    """Scheduler to client: quotas (``warren.quotas.v1``).

    Attributes:
        quotas: as they are now.
        error: why nothing was changed; empty when it was.
        forbidden: because only operators may.
    """

    TYPE: ClassVar[str] = "warren.quotas.v1"

    quotas: list[Quota] = field(default_factory=list)
    error: str = ""
    forbidden: bool = False


class Rearrange(Message, omit_defaults=True):
    """Client to scheduler: move what waits, or change its priority (``warren.rearrange.v1``); by `Rearranged`.

    Attributes:
        where: which; only what is queued or scheduled is touched, and only the asker's own, except for operators.
        queue: where to.
        priority: which priority.
        after: go on behind this place.
    """

    TYPE: ClassVar[str] = "warren.rearrange.v1"

    where: Filter
    queue: QueueName | None = None
    priority: Priority | None = None
    after: int | None = None


class Rearranged(Message, omit_defaults=True):
    """Scheduler to client: what became of a page (``warren.rearranged.v1``).

    Attributes:
        ids: what was changed, or was so already.
        next: where the next page begins; None after the last.
        error: why nothing was changed; empty when it was.
    """

    TYPE: ClassVar[str] = "warren.rearranged.v1"

    ids: list[str] = field(default_factory=list)
    next: int | None = None
    error: str = ""


class Command(Message, omit_defaults=True):
    """Operator to scheduler: have workers do something (``warren.command.v1``); answered by `CommandAnswers`.

    Asked again with the same token it is not done again, but answered with what has come in by then.

    Attributes:
        token: made by the client, random.
        verb: what to do; not `probe`, `cancel` or `renew`.
        workers: ids, or beginnings of ids; None: all.
        within: seconds that they have to answer.
        slots, level: as in `Control`.
    """

    TYPE: ClassVar[str] = "warren.command.v1"

    token: Annotated[str, Meta(min_length=8, max_length=64)]
    verb: ControlVerb
    workers: Annotated[list[str], Meta(max_length=MAX_PACK_ITEMS)] | None = None
    within: Annotated[float, Meta(gt=0, le=LONGEST_WAIT)] = 2.0
    slots: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    level: str = ""


class CommandAnswer(Struct, omit_defaults=True):
    """What one worker has answered."""

    worker: str
    data: Raw = EMPTY_KWARGS
    error: str = ""
    after: float = 0.0
    """Seconds from the command to the answer."""


class CommandAnswers(Message, omit_defaults=True):
    """Scheduler to client: what has come in so far (``warren.command-answers.v1``).

    Attributes:
        answers: one for each worker that has answered.
        missing: the ids of those that have not.
        over: nothing more will come: all have answered, or the time is over.
        error: why nothing was done; empty when it was.
        forbidden: because only operators may.
    """

    TYPE: ClassVar[str] = "warren.command-answers.v1"

    answers: list[CommandAnswer] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    over: bool = False
    error: str = ""
    forbidden: bool = False


class ListChanges(Message, omit_defaults=True):
    """Client to scheduler: what operators have changed, the newest first (``warren.list-changes.v1``); by `Changes`."""

    TYPE: ClassVar[str] = "warren.list-changes.v1"

    limit: Annotated[int, Meta(ge=1, le=MAX_PACK_ITEMS)] = 100
    after: int | None = None


class Change(Struct, omit_defaults=True):
    """Something that an operator has changed; also published to the event exchange, in a `ChangeMade`.

    Attributes:
        at: seconds since the epoch.
        user: the broker user.
        what: one of a closed set: ``quota``, ``move``, ``reprioritise``, ``purge``, ``command``.
        name: of the queue, task function, key or worker.
        detail: what exactly, in words.
    """

    at: float
    user: str
    what: str
    name: str = ""
    detail: str = ""


class ChangeMade(Message):
    """Scheduler to the event exchange, key ``change.<what>``: what an operator has changed (``warren.change.v1``)."""

    TYPE: ClassVar[str] = "warren.change.v1"

    change: Change


class Changes(Message, omit_defaults=True):
    """Scheduler to client: a page of changes (``warren.changes.v1``)."""

    TYPE: ClassVar[str] = "warren.changes.v1"

    changes: list[Change] = field(default_factory=list)
    next: int | None = None

"""What the scheduler's parts say about themselves; metrics, logs and tests subscribe. One event for each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct


class StoreCommitted(Struct, frozen=True, gc=False):
    """A group of transactions was committed.

    Attributes:
        functions: how many shared the commit.
        seconds: from begin to the end of the commit.
        commit_seconds: the commit alone.
    """

    functions: int
    seconds: float
    commit_seconds: float


class StoreFailed(Struct, frozen=True, gc=False):
    """A transaction could not be committed; nothing was written."""

    reason: str


class Submitted(Struct, frozen=True, gc=False):
    """Submissions were stored.

    Attributes:
        batch: tasks that arrived together.
        by_queue: new tasks for each queue.
        duplicates: tasks that were stored before, with the same content.
    """

    batch: int
    by_queue: Mapping[str, int]
    duplicates: int


class Parked(Struct, frozen=True, gc=False):
    """Something was refused and kept.

    Attributes:
        origin: the queue that it came from (`submit`, `reply`, `request`, `dead`).
        reason: one of a closed set.
        count: how many.
    """

    origin: str
    reason: str
    count: int


class BeatUnreadable(Struct, frozen=True, gc=False):
    """A message to the beat exchange could not be read, and was dropped."""


class Dispatched(Struct, frozen=True, gc=False):
    """A bundle was confirmed by the broker.

    Attributes:
        queue: the queue.
        tasks: how many tasks it carries.
        suspects: how many of them run apart.
        waits: seconds from submission to dispatch, for each task.
    """

    queue: str
    tasks: int
    suspects: int
    waits: Sequence[float]


class Finished(Struct, frozen=True, gc=False):
    """Tasks of one function became terminal alike; part of `Replied` and `Ended`.

    Attributes:
        queue, task: their queue and function.
        status: their terminal state.
        run_seconds: the run time of each by its worker's clock; 0 when it did not run.
        total_seconds: from submission to here, of each.
    """

    queue: str
    task: str
    status: str
    run_seconds: Sequence[float]
    total_seconds: Sequence[float]


class Replied(Struct, frozen=True, gc=False):
    """Replies were applied.

    Attributes:
        batch: outcomes that arrived together.
        finished: the tasks that became terminal.
        stale: outcomes that changed nothing.
    """

    batch: int
    finished: Sequence[Finished]
    stale: int


class AttemptsFailed(Struct, frozen=True, gc=False):
    """Workers said that attempts had failed.

    Attributes:
        queue: the queue.
        kind: why, see `common.wire.ErrorKind`.
        retried: their tasks are run again later; else they have failed.
        count: how many.
    """

    queue: str
    kind: str
    retried: bool
    count: int


class Ripened(Struct, frozen=True, gc=False):
    """Scheduled tasks were queued because they were due.

    Attributes:
        late: seconds from when each was due.
    """

    late: Sequence[float]


class Ended(Struct, frozen=True, gc=False):
    """Tasks became terminal without a reply: cancelled, expired or refused."""

    finished: Sequence[Finished]


class Returned(Struct, frozen=True, gc=False):
    """Leases came back without having been run."""

    queue: str
    reason: str
    count: int


class Held(Struct, frozen=True, gc=False):
    """Workers acked deliveries whose tasks go on running."""

    queue: str
    count: int


class Lost(Struct, frozen=True, gc=False):
    """Leases were found in nobody's hands, and their tasks queued again.

    Attributes:
        queue: the queue.
        count: how many.
        suspects: how many of them because their holder died.
    """

    queue: str
    count: int
    suspects: int


class Pruned(Struct, frozen=True, gc=False):
    """What was kept long enough was forgotten.

    Attributes:
        tasks: finished tasks.
        parked: parked messages.
    """

    tasks: int
    parked: int


class Told(Struct, frozen=True, gc=False):
    """Clients were told results.

    Attributes:
        results: how many, confirmed.
        unroutable: how many others had no reply queue any more.
    """

    results: int
    unroutable: int

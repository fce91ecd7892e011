"""How a task is run and how it may end, where that differs from the defaults.

`Policy` is what may stand at the decorator and at a submission; the submission's word counts where both speak.
`TaskOptions` adds what only a submission can say. Both travel as they are (`common.wire`), so a producer in any
language can use them; `docs/protocol.md` lists the fields.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import asdict

YEAR: Final = 366 * 86_400.0
LONGEST: Final = 100 * YEAR
"""No span of time is longer, in seconds."""
MAX_RETRIES: Final = 10_000
REQUESTED_RETRIES: Final = 10
"""Retries for a task function that raises `Retry` itself, when nobody has said how many."""

Span = Annotated[float, Meta(gt=0, le=LONGEST)]
Moment = Annotated[float, Meta(gt=0, le=4_102_444_800 + LONGEST)]
"""Seconds since the epoch (UTC)."""
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\Z", max_length=64)]
Text = Annotated[str, Meta(max_length=128)]
Key = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z", max_length=128)]
"""No control characters: names are put together with one between them, and shown in terminals."""
Requirements = Annotated[tuple[Label, ...], Meta(max_length=8)]
"""Labels that a worker has to have, sorted and each once."""


class BackoffKind(StrEnum):
    """How the wait grows from one retry to the next."""

    CONSTANT = "constant"
    """`base`, each time."""
    LINEAR = "linear"
    """`base`, twice `base`, three times, ..."""
    EXPONENTIAL = "exponential"
    """`base`, 2 `base`, 4 `base`, ..."""


class Backoff(Struct, frozen=True, omit_defaults=True, gc=False):
    """The wait before a retry.

    Attributes:
        kind: how it grows.
        base: the first wait, seconds.
        cap: the longest wait, seconds.
        jitter: draw the wait evenly from 0 to what the rule says, so that tasks that failed together do not come
            back together (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Example:
        >>> [Backoff(base=2, cap=60, jitter=False).wait(failures) for failures in (1, 2, 3, 10)]
        [2, 4, 8, 60]
    """

    kind: BackoffKind = BackoffKind.EXPONENTIAL
    base: Annotated[float, Meta(ge=0, le=YEAR)] = 1.0
    cap: Annotated[float, Meta(ge=0, le=YEAR)] = 600.0
    jitter: bool = True

    def wait(self, failures: int, dice: float = 1.0) -> float:
        """Seconds to wait.

        Args:
            failures: how often the task has failed, from 1.
            dice: a random number from 0 to 1, used with `jitter`.
        """
        factor: float = 1
        if self.kind is BackoffKind.LINEAR:
            factor = failures
        elif self.kind is BackoffKind.EXPONENTIAL:
            factor = 2 ** min(failures - 1, 60)
        wait = min(self.cap, self.base * factor)
        return wait * dice if self.jitter else wait


class Policy(Struct, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """What may be said at the decorator, and at a submission. None: not said here.

    Attributes:
        timeout: seconds after which `TaskTimeout` is raised in the task function.
        hard_timeout: seconds after which it is ended: the process killed, the coroutine or thread given up.
        retries: how often a failed task is run again; 0 without a word.
        backoff: how long it waits before that.
        retry_on: names of exception types that are retried, with or without their module; all, when not said.
        give_up_on: names of exception types that are not retried.
        max_crashes: how often it may kill the process that runs it before it fails.
        memory_limit: bytes of memory that the process which runs it may take beyond what it starts with, mostly the
            imported modules (`runtime="process"`, and suspects); 16 MiB to 1 PiB.
        expires_in: seconds after its acceptance by which it has to be started.
        result_ttl: seconds for which its result and its row are kept after its end.
    """

    timeout: Span | None = None
    hard_timeout: Span | None = None
    retries: Annotated[int, Meta(ge=0, le=MAX_RETRIES)] | None = None
    backoff: Backoff | None = None
    retry_on: tuple[Name, ...] | None = None
    give_up_on: tuple[Name, ...] | None = None
    max_crashes: Annotated[int, Meta(ge=1, le=100)] | None = None
    memory_limit: Annotated[int, Meta(ge=16 * 1024**2, le=1024**5)] | None = None
    expires_in: Span | None = None
    result_ttl: Annotated[float, Meta(ge=0, le=LONGEST)] | None = None


NO_POLICY: Final = Policy()


class TaskOptions(Policy, frozen=True, omit_defaults=True, gc=False, kw_only=True):
    """What may be said at a submission.

    Attributes:
        delay: seconds after its acceptance at which it becomes due.
        run_at: when it becomes due, seconds since the epoch; a past moment is now.
        expires_at: by when it has to be started, seconds since the epoch.
        idempotency_key: a second submission with this key, by the same user within `idempotency_window`, is the first
            task again, whatever its arguments.
        idempotency_window: seconds.
        unique: not a second task with this name while one is unfinished: a submission is the first one again.
        key: whose task it is, for fairness between tenants.
        requires: labels that a worker has to have to run it; added to what the decorator requires.
        labels: for finding tasks again.
        parent: the id of the task that submitted it.
        replay_of: the id of the task that it repeats.
    """

    delay: Annotated[float, Meta(ge=0, le=LONGEST)] | None = None
    run_at: Moment | None = None
    expires_at: Moment | None = None
    idempotency_key: Annotated[Key, Meta(min_length=1)] | None = None
    idempotency_window: Span | None = None
    unique: Name | None = None
    key: Key | None = None
    requires: Requirements | None = None
    labels: Annotated[dict[Label, Text], Meta(max_length=16)] | None = None
    parent: Annotated[str, Meta(max_length=36)] | None = None
    replay_of: Annotated[str, Meta(max_length=36)] | None = None


IDEMPOTENCY_WINDOW: Final = 86_400.0
"""Seconds for which an idempotency key stands for its task when the submission does not say."""


def policy_of(submitted: Policy | None, declared: Policy) -> Policy:
    """What counts: the submission's word where there is one, else the decorator's."""
    if submitted is None:
        return declared
    said: dict[str, Any] = {name: value for name, value in asdict(submitted).items() if value is not None}
    known = asdict(declared)
    return Policy(**{name: said.get(name, known[name]) for name in known})

"""What was chosen for submissions: by `options`, by the call itself, and by the task function's decorator."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from common.errors import InvalidTask
from common.options import TaskOptions
from common.tasks import Call, TaskFunction
from common.words import EQUAL, NOT_UNIQUE, merged, task_options

_SCHEDULERS: Final = ("expires_in", "result_ttl", "max_crashes")
"""What the scheduler has to know of a decorator's policy, beside `requires`; the worker knows the rest by itself."""

_NOTHING: Final = TaskOptions()
_decode = msgspec.json.Decoder(TaskOptions).decode
_encode = msgspec.json.Encoder().encode


class Chosen(Struct, frozen=True):
    """The options that hold for each submission through one submitter."""

    queue: str | None = None
    priority: int | None = None
    task_id: str | None = None
    extra: TaskOptions | None = None

    def and_also(
        self, queue: str | None, priority: int | None, task_id: str | None, words: Mapping[str, Any]
    ) -> Chosen:
        """These and more; the new ones count where both speak.

        Raises:
            InvalidTask: an option cannot be sent as it is.
        """
        return Chosen(
            self.queue if queue is None else queue,
            self.priority if priority is None else priority,
            self.task_id if task_id is None else task_id,
            merged(task_options(words), self.extra),
        )

    def for_many(self, calls: Iterable[Call[Any]]) -> Iterator[Call[Any]]:
        """`calls` with queue and priority where they do not say themselves.

        Raises:
            InvalidTask: an option that can only be that of one task.
        """
        if self.task_id is not None:
            raise InvalidTask("one task_id cannot be that of many calls; use call(...).options(task_id=...)")
        extra = self.extra
        if extra is not None and (extra.idempotency_key or extra.unique not in (None, EQUAL, NOT_UNIQUE)):
            raise InvalidTask("one idempotency_key or unique name would make all of these calls one task")
        if self.queue is None and self.priority is None:
            return iter(calls)
        return (
            call.options(
                queue=self.queue if call.queue is None else None,
                priority=self.priority if call.priority is None else None,
            )
            for call in calls
        )


NOTHING: Final = Chosen()


def checked(
    call: Call[Any], chosen: TaskOptions | None, declared: TaskOptions | None
) -> tuple[TaskOptions | None, int]:
    """What is said about this call: by itself, by the submitter, and by the decorator, in this order.

    Args:
        call: the call.
        chosen: what the submitter says.
        declared: what the decorator says, from `declared_by`.

    Returns:
        The options as they are sent, and how many bytes they take.

    Raises:
        InvalidTask: a value is of a wrong form or out of its range.
    """
    options = merged(merged(call.extra, chosen), declared)
    if options is None:
        return None, 0
    _check_sense(options, call)
    if options.unique == EQUAL:
        options = replace(options, unique=_equal(call))
    elif options.unique == NOT_UNIQUE:
        options = replace(options, unique=None)
        if options == _NOTHING:
            return None, 0
    try:
        raw = _encode(options)
        return _decode(raw), len(raw)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise InvalidTask(f"the options of {call.name!r} cannot be sent: {error}") from None


def _check_sense(options: TaskOptions, call: Call[Any]) -> None:
    """Refuse what would never let the task run, or end it before it can be told to end."""
    now = time.time()
    due = max(options.run_at or now, now + (options.delay or 0.0))
    expiries = (options.expires_at, None if options.expires_in is None else now + options.expires_in)
    if due > now and any(expires is not None and expires <= due for expires in expiries):
        raise InvalidTask(f"{call.name!r} would expire before it is due")
    soft, hard = options.timeout, options.hard_timeout
    if soft is not None and hard is not None and hard < soft:
        raise InvalidTask(f"the hard_timeout of {call.name!r} ({hard:g} s) comes before its timeout ({soft:g} s)")
    hard = call.task.policy.hard_timeout if hard is None and isinstance(call.task, TaskFunction) else None
    if soft is not None and hard is not None and hard < soft:
        raise InvalidTask(
            f"the hard_timeout that the decorator of {call.name!r} declares ({hard:g} s) comes before this timeout "
            f"({soft:g} s); say another hard_timeout as well"
        )


@lru_cache(maxsize=1024)
def declared_by(task: TaskFunction[..., Any]) -> TaskOptions | None:
    """What the scheduler has to know of what the task function's decorator declares."""
    said = {name: value for name in _SCHEDULERS if (value := getattr(task.policy, name)) is not None}
    if task.requires:
        # A worker without these labels does not name the function: only the submission can say what it lacks.
        said["requires"] = task.requires
    return merged(task.defaults, TaskOptions(**said) if said else None)


def _equal(call: Call[Any]) -> str:
    """A name that two calls share when function and arguments are equal."""
    content = msgspec.json.encode([call.name, list(call.args), dict(call.kwargs)], order="sorted")
    return f"{call.name[:60]}:{hashlib.blake2b(content, digest_size=24).hexdigest()}"

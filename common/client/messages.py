"""From a call to a task message: everything that can be wrong with a call is found here, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from common.errors import InvalidTask
from common.ids import new_task_id
from common.tasks import Call, TaskFunction, check_target, check_task_id
from common.wire import DEFAULT_PRIORITY, DEFAULT_QUEUE, EMPTY_ARGS, EMPTY_KWARGS, TaskMessage, encode, json_depth

MAX_TASK_BYTES: Final = 256 * 1024
"""Arguments of one task, encoded."""
MAX_DEPTH: Final = 32
"""How deep arguments may nest."""
CHUNK: Final = 10_000
"""Calls of one `submit_many` that are checked before the first of them is sent."""

_encode = msgspec.json.Encoder().encode


def message(call: Call[Any], *, max_bytes: int = MAX_TASK_BYTES) -> TaskMessage:
    """The message that submits `call`.

    Args:
        call: what to do, with its options.
        max_bytes: bytes of the encoded arguments at most.

    Raises:
        InvalidTask: the name, an option or an argument cannot be sent; nothing was sent.
    """
    task = call.task
    if isinstance(task, TaskFunction):
        name, queue, priority = task.name, task.queue, task.priority
    elif isinstance(task, str):
        name, queue, priority = task, DEFAULT_QUEUE, DEFAULT_PRIORITY
    else:
        raise InvalidTask(f"a task is named by a string or a task function, not by a {type(task).__name__}")
    if call.queue is not None:
        queue = call.queue
    if call.priority is not None:
        priority = call.priority
    _check_target(name, queue, priority)
    task_id = call.task_id
    if task_id is None:
        task_id = new_task_id()
    else:
        check_task_id(task_id)
    args, kwargs = call.args, call.kwargs
    raw_args = _json(name, args) if args else b""
    raw_kwargs = _json(name, kwargs) if kwargs else b""
    if len(raw_args) + len(raw_kwargs) > max_bytes:
        raise InvalidTask(
            f"the arguments of {name!r} take {len(raw_args) + len(raw_kwargs):,} bytes, {max_bytes:,} are allowed; "
            f"put large data where the worker can fetch it, and submit its address"
        )
    return TaskMessage(
        task_id,
        name,
        Raw(raw_args) if raw_args else EMPTY_ARGS,
        Raw(raw_kwargs) if raw_kwargs else EMPTY_KWARGS,
        queue,
        priority,
    )


class Prepared(Struct, gc=False):
    """A call that is right and encoded."""

    task_id: str
    task: bytes
    result_type: Any
    named: bool
    """The caller chose the id, so that a handle with it may exist."""


def prepare(call: Call[Any], max_bytes: int = MAX_TASK_BYTES) -> Prepared:
    """Check and encode `call`; arguments and errors as for `message`."""
    sent = message(call, max_bytes=max_bytes)
    task = call.task
    result_type = task.result_type if isinstance(task, TaskFunction) else Any
    return Prepared(sent.id, encode(sent), result_type, call.task_id is not None)


def prepare_many(calls: Iterable[Call[Any]], max_bytes: int, *, first: int, sent: int) -> list[Prepared]:
    """Check and encode `calls`.

    Args:
        calls: the calls.
        max_bytes: as for `message`.
        first: the number of the first of them within its `submit_many`, from 0.
        sent: how many calls of the same `submit_many` have been submitted before.

    Raises:
        InvalidTask: one of them is wrong; the message says which.
    """
    prepared: list[Prepared] = []
    for call in calls:
        try:
            prepared.append(prepare(call, max_bytes))
        except InvalidTask as error:
            number = first + len(prepared)
            raise InvalidTask(
                f"call {number} (from 0): {error}" + (f"; the first {sent} calls were submitted" if sent else "")
            ) from None
    return prepared


def completed(
    calls: Iterable[Call[Any]], queue: str | None, priority: int | None, task_id: str | None
) -> Iterator[Call[Any]]:
    """`calls` with these options where they do not say themselves."""
    if task_id is not None:
        raise InvalidTask("one task_id cannot be that of many calls; use call(...).options(task_id=...)")
    if queue is None and priority is None:
        return iter(calls)
    return (
        call.options(queue=queue if call.queue is None else None, priority=priority if call.priority is None else None)
        for call in calls
    )


def _check_target(name: str, queue: str, priority: int) -> None:
    try:
        check_target(name, queue, priority)
    except TypeError:
        raise InvalidTask(f"a queue is named by a string and a priority is an integer, for {name!r}") from None


def _json(name: str, value: tuple[Any, ...] | Mapping[str, Any]) -> bytes:
    try:
        raw = _encode(value)
    except RecursionError:
        raise InvalidTask(f"the arguments of {name!r} nest too deep, or contain themselves") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidTask(f"the arguments of {name!r} cannot be written as JSON: {error}") from None
    # The exact depth is counted only where it could be too deep, and NaN looked for only where it could be.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and (depth := json_depth(raw)) > MAX_DEPTH:
        raise InvalidTask(f"the arguments of {name!r} nest {depth} deep, {MAX_DEPTH} is allowed")
    if b"null" in raw and not _finite(msgspec.to_builtins(value)):
        raise InvalidTask(f"an argument of {name!r} is NaN or infinite, which JSON cannot say")
    return raw


def _finite(value: Any) -> bool:
    """False when there is a NaN or an infinity inside: msgspec writes both as null without a word."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value)) and all(map(_finite, value.values()))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return all(map(_finite, value))
    return True

"""From a call to a task message: everything that can be wrong with a call is found here, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from common.client.options import checked, declared_by
from common.errors import InvalidTask, SettingsError
from common.ids import new_task_id
from common.options import TaskOptions
from common.raw import PLAIN, read_raw
from common.tasks import Call, TaskFunction, check_target, check_task_id
from common.wire import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    EMPTY_ARGS,
    EMPTY_KWARGS,
    LARGEST_TASK,
    TaskMessage,
    encode,
    json_depth,
)

MAX_TASK_BYTES: Final = 256 * 1024
"""Arguments of one task, encoded."""
MAX_DEPTH: Final = 32
"""How deep arguments may nest."""
CHUNK: Final = 10_000
"""Calls of one `submit_many` that are checked before the first of them is sent."""

_encode = msgspec.json.Encoder().encode


def message(call: Call[Any], chosen: TaskOptions | None = None, *, max_bytes: int = MAX_TASK_BYTES) -> TaskMessage:
    """The message that submits `call`.

    Args:
        call: what to do, with its options.
        chosen: options that hold where the call does not say itself.
        max_bytes: bytes of the encoded arguments and options at most.

    Raises:
        InvalidTask: the name, an option or an argument cannot be sent; nothing was sent.
    """
    if not isinstance(call, Call):
        raise InvalidTask(f"tasks are made by common.call(...), not by a {type(call).__name__}")
    task = call.task
    if isinstance(task, TaskFunction):
        name, queue, priority, declared = task.name, task.queue, task.priority, declared_by(task)
    elif isinstance(task, str):
        name, queue, priority, declared = task, DEFAULT_QUEUE, DEFAULT_PRIORITY, None
    else:
        raise InvalidTask(f"a task is named by a string or a task function, not by a {type(task).__name__}")
    if call.queue is not None:
        queue = call.queue
    if call.priority is not None:
        priority = call.priority
    _check_target(name, queue, priority)
    if type(name) is not str or type(queue) is not str:  # an enum's member, or another library's kind of string
        name, queue = str.__str__(name), str.__str__(queue)
    task_id = call.task_id
    if task_id is None:
        task_id = new_task_id()
    else:
        check_task_id(task_id)
    args, kwargs = call.args, call.kwargs
    raw_args = _json(name, args) if args else b""
    raw_kwargs = _json(name, kwargs) if kwargs else b""
    size = len(raw_args) + len(raw_kwargs)
    options = None
    if chosen is not None or declared is not None or call.extra is not None:
        options, more = checked(call, chosen, declared)
        size += more
    if size > max_bytes:
        raise InvalidTask(
            f"the arguments of {name!r} take {size:,} bytes{', with the options' if options else ''}, {max_bytes:,} "
            f"are allowed; put large data where the worker can fetch it, and submit its address"
        )
    return TaskMessage(
        task_id,
        name,
        Raw(raw_args) if raw_args else EMPTY_ARGS,
        Raw(raw_kwargs) if raw_kwargs else EMPTY_KWARGS,
        queue,
        priority,
        options,
    )


class Prepared(Struct, gc=False):
    """A call that is right and encoded."""

    task_id: str
    task: bytes
    result_type: Any
    content: int | None
    """Stands for what the scheduler compares, when the caller chose the id; None for an id that was made here."""


def prepare(call: Call[Any], max_bytes: int = MAX_TASK_BYTES, chosen: TaskOptions | None = None) -> Prepared:
    """Check and encode `call`; arguments and errors as for `message`."""
    sent = message(call, chosen, max_bytes=max_bytes)
    task = call.task
    result_type = task.result_type if isinstance(task, TaskFunction) else Any
    encoded = encode(sent)
    return Prepared(sent.id, encoded, result_type, None if call.task_id is None else hash(encoded))


def prepare_many(
    calls: Iterable[Call[Any]], max_bytes: int, chosen: TaskOptions | None, *, first: int, sent: int
) -> list[Prepared]:
    """Check and encode `calls`.

    Args:
        calls: the calls.
        max_bytes, chosen: as for `message`.
        first: the number of the first of them within its `submit_many`, from 0.
        sent: how many calls of the same `submit_many` have been submitted before.

    Raises:
        InvalidTask: one of them is wrong; the message says which.
    """
    prepared: list[Prepared] = []
    for call in calls:
        try:
            prepared.append(prepare(call, max_bytes, chosen))
        except InvalidTask as error:
            number = first + len(prepared)
            raise InvalidTask(
                f"call {number} (from 0): {error}" + (f"; the first {sent} calls were submitted" if sent else "")
            ) from None
    return prepared


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
    if not all(type(each) in PLAIN for each in (value.values() if isinstance(value, Mapping) else value)):
        _check_raw(name, raw, len(value))
    if b"null" in raw and not _finite(msgspec.to_builtins(value, enc_hook=read_raw)):
        raise InvalidTask(f"an argument of {name!r} is NaN or infinite, which JSON cannot say")
    return raw


def _check_raw(name: str, raw: bytes, count: int) -> None:
    """Refuse what a `msgspec.Raw` in the arguments makes of them: nobody could read it, nor what is sent with it."""
    try:
        found = len(msgspec.json.decode(raw))
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidTask(f"an argument of {name!r} is raw JSON, and wrong: {error}") from None
    if found != count:
        raise InvalidTask(f"an argument of {name!r} is raw JSON, and wrong: it makes {found} arguments of {count}")


def check_limit(max_task_bytes: int) -> int:
    """The limit of a client, when it is one.

    Raises:
        SettingsError: it is not.
    """
    if not (isinstance(max_task_bytes, int) and 0 < max_task_bytes <= LARGEST_TASK):
        raise SettingsError(
            [f"max_task_bytes {max_task_bytes!r} has to be 1 to {LARGEST_TASK}, as with the scheduler's"]
        )
    return max_task_bytes


def _finite(value: Any) -> bool:
    """False when there is a NaN or an infinity inside: msgspec writes both as null without a word."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value)) and all(map(_finite, value.values()))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, memoryview)):
        return all(map(_finite, value))
    return True


def noted(error: Exception, ids: Sequence[str]) -> Exception:
    """`error`, which ended a `submit_many`, with a note on what had been submitted by then."""
    if ids:
        error.add_note(f"the first {len(ids):,} calls were submitted, as the tasks {ids[0]} to {ids[-1]}")
    return error

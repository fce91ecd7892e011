"""Reading submissions: what may be stored, and what is refused with its reason. No I/O.

The unit of refusal is the task, never the batch: a message that does not decode as a whole is decoded task by task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Raw, Struct

from common.broker import Delivery
from common.errors import WireError
from common.options import IDEMPOTENCY_WINDOW, TaskOptions
from common.topology import Topology
from common.wire import (
    ErrorInfo,
    ErrorKind,
    RawSubmission,
    Submission,
    TaskMessage,
    check_type,
    decode,
    encode,
    json_depth,
)
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.tasks import NewTask

_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


KEPT_BYTES: Final = 64 * 1024
"""Of a message above the limit so much is kept, from its beginning: whoever sends such fills the database."""


class Limits(Struct, frozen=True):
    """What a submission may be.

    Attributes:
        task_bytes: arguments of one task, bytes.
        depth: nesting of arguments.
        message_bytes: one message, bytes.
    """

    task_bytes: int
    depth: int
    message_bytes: int


class Refusal(Exception):
    """A submission or a task that is not taken.

    Attributes:
        reason: one of a closed set; a metrics label.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


def read(
    deliveries: Sequence[Delivery], topology: Topology, limits: Limits
) -> tuple[list[NewTask], list[ParkedMessage]]:
    """The tasks in `deliveries`, in order, and what has to be parked."""
    taken: list[NewTask] = []
    refused: list[ParkedMessage] = []
    for delivery in deliveries:
        try:
            owner, reply_to = _sender(delivery, topology)
            submission = _submission(delivery, limits)
        except Refusal as refusal:
            message = parked_message("submit", delivery, refusal.reason, str(refusal))
            if len(delivery.body) > limits.message_bytes:
                message.payload = message.payload[:KEPT_BYTES]
            refused.append(message)
            continue
        for each in submission:
            try:
                task = decode(TaskMessage, each) if isinstance(each, Raw) else each
            except WireError as error:
                message = parked_message("submit", delivery, "undecodable", str(error))
                message.payload = bytes(each) if isinstance(each, Raw) else delivery.body
                refused.append(message)
                continue
            try:
                args, kwargs = _checked(task, limits)
                taken.append(NewTask(task, args, kwargs, owner, reply_to))
            except Refusal as refusal:
                failed, message = refuse(task, owner, reply_to, refusal)
                taken.append(failed)
                refused.append(message)
    return taken, refused


def refuse(task: TaskMessage, owner: str, reply_to: str | None, refusal: Refusal) -> tuple[NewTask, ParkedMessage]:
    """A task that can be read but is not taken: it fails, so that its owner is told, and what came is parked."""
    error = ErrorInfo(ErrorKind.REFUSED, "Refused", str(refusal))
    headers = {"id": task.id, "task": task.task, "queue": task.queue}
    parked = ParkedMessage("submit", refusal.reason, str(refusal), encode(task), owner, headers)
    return NewTask(task, "[]", "{}", owner, reply_to, refusal=error), parked


def set_times(task: NewTask, options: TaskOptions, result_ttl: float, now: float) -> None:
    """Say when a task with options is due and over, and how long it is kept, by the scheduler's clock.

    Args:
        task: the task.
        options: its options.
        result_ttl: seconds for which a task is kept after its end when it does not say.
        now: the time, seconds since the epoch.
    """
    due_at = max(options.run_at or 0.0, now + (options.delay or 0.0))
    task.due_at = due_at if due_at > now else None
    ends = [options.expires_at, None if options.expires_in is None else now + options.expires_in]
    task.expires_at = min((end for end in ends if end is not None), default=None)
    task.ttl = options.result_ttl
    if options.idempotency_key is not None:
        # Within the window the key has to find its task.
        window = options.idempotency_window or IDEMPOTENCY_WINDOW
        if window > (result_ttl if task.ttl is None else task.ttl):
            task.ttl = window


def parked_message(origin: str, delivery: Delivery, reason: str, detail: str) -> ParkedMessage:
    """`delivery` as a row to be parked."""
    headers = {key: _text(value) for key, value in delivery.headers.items()}
    for name in ("type", "reply_to", "correlation_id"):
        value = getattr(delivery, name)
        if value is not None:
            headers[name] = _text(value)
    return ParkedMessage(origin, reason, detail, delivery.body, delivery.user_id, headers)


def _text(value: object) -> str:
    return str(value)[:1000]


def _sender(delivery: Delivery, topology: Topology) -> tuple[str, str | None]:
    if any(name.startswith(("x-death", "x-first-death")) for name in delivery.headers):
        raise Refusal("dead_lettered", "submissions that were dead-lettered into the queue are not taken")
    if not delivery.user_id:
        raise Refusal("no_user", "the property user_id is missing: set it to the connection's user")
    reply_to = delivery.reply_to
    if reply_to is not None:
        check_reply_to(reply_to, delivery.user_id, topology)
    return delivery.user_id, reply_to


def check_reply_to(reply_to: str, user: str, topology: Topology) -> None:
    """Refuse a reply queue outside the sender's own names: the scheduler writes there with its own rights.

    Raises:
        Refusal: it is not the sender's.
    """
    prefix = topology.client_prefix(user)
    if not user or not reply_to.startswith(prefix) or not _NONCE.fullmatch(reply_to, len(prefix)):
        raise Refusal("foreign_reply_to", f"reply_to {reply_to[:100]!r} is not one of the sender's ({prefix}*)")


def _submission(delivery: Delivery, limits: Limits) -> Sequence[TaskMessage | Raw]:
    if len(delivery.body) > limits.message_bytes:
        raise Refusal("too_large", f"{len(delivery.body)} bytes, at most {limits.message_bytes} are taken")
    try:
        check_type(Submission, delivery.type)
    except WireError as error:
        raise Refusal("unknown_type", str(error)) from None
    try:
        return decode(Submission, delivery.body).tasks
    except WireError:
        pass
    try:
        return decode(RawSubmission, delivery.body).tasks
    except WireError as error:
        raise Refusal("undecodable", str(error)) from None


def _checked(task: TaskMessage, limits: Limits) -> tuple[str, str]:
    args, kwargs = bytes(task.args), bytes(task.kwargs)
    size = len(args) + len(kwargs)
    if size > limits.task_bytes:
        raise Refusal("too_large", f"arguments of {size} bytes, at most {limits.task_bytes} are taken")
    if args[:1] != b"[" or kwargs[:1] != b"{":
        raise Refusal("undecodable", "args has to be an array and kwargs an object")
    if size > 2 * limits.depth and max(json_depth(args), json_depth(kwargs)) > limits.depth:
        raise Refusal("too_deep", f"arguments nest deeper than {limits.depth}")
    try:
        return args.decode(), kwargs.decode()
    except UnicodeDecodeError as error:
        raise Refusal("undecodable", f"arguments are not UTF-8: {error}") from None

"""Outcomes: what a task function returned or raised, as bounded JSON and text."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from common.errors import TaskTimeout
from common.options import Policy
from common.raw import PLAIN, read_raw
from common.wire import Assignment, ErrorInfo, ErrorKind, Outcome, OutcomeKind, ReturnReason
from worker_service.advice import advise
from worker_service.arguments import BadArguments, check_depth
from worker_service.checks import ResultCheck

MAX_MESSAGE_BYTES: Final = 8 * 1024
MAX_TRACEBACK_BYTES: Final = 32 * 1024
_MAX_FRAMES: Final = 50
_HERE: Final = str(Path(__file__).parent)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Limits(NamedTuple):
    """Bounds on what a message or a task function may contain.

    Attributes:
        result_bytes: the largest result, as JSON.
        depth: how deep arrays and objects may nest in arguments and results.
    """

    result_bytes: int
    depth: int


class BadResult(Exception):
    """The result cannot be sent; the text says why."""


def succeeded(
    assignment: Assignment, value: Any, seconds: float, limits: Limits, check: ResultCheck | None = None
) -> Outcome:
    """The outcome of a task function that returned `value`; a failure when `value` cannot be sent.

    Args:
        assignment: the attempt.
        value: what was returned.
        seconds: the run time.
        limits: bounds on the result.
        check: holds it against the function's annotation.
    """
    try:
        result = encode_result(value, limits)
        if check is not None:
            _held_against(check, result)
    except BadResult as error:
        return failed(assignment, ErrorKind.BAD_RESULT, error, seconds, with_traceback=False)
    return Outcome(
        assignment.id,
        assignment.lease,
        assignment.attempt,
        OutcomeKind.SUCCEEDED,
        Raw(result),
        run_seconds=seconds,
    )


def encode_result(value: Any, limits: Limits) -> bytes:
    """`value` as JSON.

    Raises:
        BadResult: not JSON, too large, nested too deep, or with a NaN or infinity in it.
    """
    try:
        result = _encode(value)
        if b"null" in result and value is not None:
            _refuse_nan(value)
        if type(value) not in PLAIN:
            _decode(result)
    except RecursionError:
        raise BadResult("the result is nested too deep, or contains itself") from None
    except Exception as error:  # noqa: BLE001 - the value's own code may run while it is encoded
        raise BadResult(f"the result is not JSON: {_text(error)}") from None
    if len(result) > limits.result_bytes:
        raise BadResult(f"the result has {len(result)} bytes as JSON, more than {limits.result_bytes}")
    try:
        check_depth(result, limits.depth)
    except BadArguments as error:
        raise BadResult(f"the result is {error}") from None
    return result


def _held_against(check: ResultCheck, result: bytes) -> None:
    try:
        check(result)
    except Exception as error:  # noqa: BLE001 - the annotated type's own code may run
        raise BadResult(f"the result is not what the function's annotation says: {_text(error)}") from None


def failed(
    assignment: Assignment, kind: ErrorKind, error: BaseException, seconds: float, *, with_traceback: bool = True
) -> Outcome:
    """The outcome of an attempt that failed with `error`.

    Args:
        assignment: the attempt.
        kind: why.
        error: its class's name, text and traceback are sent, in bounds.
        seconds: the run time.
        with_traceback: False where the traceback would show only our own code.
    """
    trace = _format(error) if with_traceback else ""
    return failure(assignment, kind, type(error).__qualname__, _text(error), trace, seconds)


def failure(
    assignment: Assignment, kind: ErrorKind, type_name: str, message: str, trace: str = "", seconds: float = 0.0
) -> Outcome:
    """The outcome of an attempt that failed, from texts of any size and content."""
    info = ErrorInfo(kind, safe(type_name, 256), safe(message, MAX_MESSAGE_BYTES), safe(trace, MAX_TRACEBACK_BYTES))
    return Outcome(
        assignment.id, assignment.lease, assignment.attempt, OutcomeKind.FAILED, error=info, run_seconds=seconds
    )


def timed_out(assignment: Assignment, policy: Policy, seconds: float, trace: str) -> Outcome:
    """The outcome of an attempt that was ended after its hard timeout.

    Args:
        assignment: the attempt.
        policy: decorator and submission taken together.
        seconds: how long it ran.
        trace: where it was, as far as that is known.
    """
    text = f"it was ended after its hard timeout of {policy.hard_timeout or 0:g} s"
    outcome = failure(assignment, ErrorKind.TIMEOUT, TaskTimeout.__name__, text, trace, seconds)
    outcome.advice = advise(policy, ErrorKind.TIMEOUT, TaskTimeout)
    return outcome


def returned(assignment: Assignment, reason: ReturnReason) -> Outcome:
    """The outcome of a lease that this worker does not run."""
    error = None
    if reason is ReturnReason.UNKNOWN_FUNCTION:
        text = f"no worker knows the task function {assignment.task!r}"
        error = ErrorInfo(ErrorKind.UNKNOWN_FUNCTION, "UnknownFunction", text)
    return Outcome(
        assignment.id, assignment.lease, assignment.attempt, OutcomeKind.RETURNED, error=error, reason=reason
    )


def held(assignment: Assignment) -> Outcome:
    """Says that the attempt goes on, and its delivery is acked."""
    return Outcome(assignment.id, assignment.lease, assignment.attempt, OutcomeKind.HELD)


def safe(text: str, limit: int) -> str:
    """`text` as something that JSON, UTF-8 and any database can hold, within `limit` bytes of UTF-8.

    The middle is cut out: the beginning says what it is, the end of a traceback where it happened.
    """
    if len(text) > limit:
        text = f"{text[: limit // 2]}\n... cut ...\n{text[-limit // 2 :]}"
    data = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace")
    if len(data) > limit:
        mark = b"\n... cut ...\n"
        half = (limit - len(mark)) // 2
        data = data[:half] + mark + data[-half:]
    return data.decode("utf-8", "ignore")


def _refuse_nan(value: Any) -> None:
    """msgspec writes NaN and the infinities as null, which would be a wrong result and not an error."""
    json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=read_raw), allow_nan=False)


def _text(error: BaseException) -> str:
    try:
        return str.__str__(str(error))  # not of a type of its own
    except BaseException:  # noqa: BLE001 - the exception's own code, which may even try to exit
        return "(its text cannot be made)"


def _format(error: BaseException) -> str:
    """The traceback without our own frames, its last frames if there are many."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace, limit=-_MAX_FRAMES))
    except BaseException:  # noqa: BLE001 - the exception's own code
        return ""

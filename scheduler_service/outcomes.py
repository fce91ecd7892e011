"""Outcomes: reading replies, and what each outcome means for its task. No I/O.

The unit of refusal is the outcome, never the reply: one that does not decode as a whole is decoded outcome by outcome.
"""

from __future__ import annotations

import random

from msgspec import Raw, Struct

from common.broker import Delivery
from common.errors import WireError
from common.options import LONGEST
from common.states import Event, Expired, Failed, Held, Returned, Succeeded, UnknownFunction
from common.wire import ErrorInfo, ErrorKind, Outcome, OutcomeKind, RawReply, Reply, ReturnReason, decode
from scheduler_service.operations import Report
from scheduler_service.reception import parked_message
from scheduler_service.storage.parked import ParkedMessage

# A worker of another version may understand it: both are tried again for the grace time, then failed.
_NOT_UNDERSTOOD = {
    ReturnReason.UNKNOWN_FUNCTION: "no worker knows this task function",
    ReturnReason.UNDECODABLE: "no worker can decode this assignment",
}


class _Whose(Struct, gc=False):
    """What says of an outcome whose it is."""

    id: str
    lease: str
    attempt: int


def outcomes_in(delivery: Delivery, refused: list[ParkedMessage]) -> tuple[str, list[Outcome]]:
    """Who sent a reply, and its outcomes.

    One that does not decode is added to `refused`. When it says whose it is, its task fails: it has run, and running it
    again would bring the same.

    Raises:
        WireError: nothing of it can be read.
    """
    try:
        reply = decode(Reply, delivery.body)
    except WireError:
        pass
    else:
        return reply.worker, _timed(reply.outcomes)
    raw_reply = decode(RawReply, delivery.body)
    outcomes: list[Outcome] = []
    for raw in raw_reply.outcomes:
        try:
            outcomes.append(decode(Outcome, raw))
        except WireError as error:
            message = parked_message("reply", delivery, "undecodable", str(error))
            message.payload = bytes(raw)
            refused.append(message)
            outcomes += _failed(raw, error)
    return raw_reply.worker, _timed(outcomes)


def _timed(outcomes: list[Outcome]) -> list[Outcome]:
    """The same with run times that can be: nothing else of an outcome is wrong because of its clock."""
    for outcome in outcomes:
        if not 0.0 <= outcome.run_seconds <= LONGEST:
            outcome.run_seconds = 0.0
    return outcomes


def _failed(raw: Raw, error: WireError) -> list[Outcome]:
    try:
        whose = decode(_Whose, raw)
    except WireError:
        return []
    info = ErrorInfo(ErrorKind.BAD_RESULT, "Undecodable", f"the outcome cannot be read: {error}")
    return [Outcome(whose.id, whose.lease, whose.attempt, OutcomeKind.FAILED, error=info)]


def event_of(outcome: Outcome) -> Event:
    """What an outcome is to the transition function."""
    if outcome.kind is OutcomeKind.HELD:
        return Held(outcome.lease)
    if outcome.kind is OutcomeKind.RETURNED:
        if outcome.reason is ReturnReason.EXPIRED:
            return Expired(outcome.lease)
        if outcome.reason in _NOT_UNDERSTOOD:
            what = _NOT_UNDERSTOOD[outcome.reason]
            error = outcome.error or ErrorInfo(ErrorKind.UNKNOWN_FUNCTION, "UnknownFunction", what)
            return UnknownFunction(outcome.lease, error)
        return Returned(outcome.lease)
    error = outcome.error or ErrorInfo(ErrorKind.EXCEPTION, "Unknown", "the worker gave no reason")
    return Failed(outcome.attempt, outcome.lease, error, outcome.advice, random.random())  # noqa: S311 - jitter


def unstorable(report: Report, error: Exception) -> Report:
    """The failure that takes the place of what cannot be stored, because of `error`."""
    event = report.event
    lease = "" if not hasattr(event, "lease") else event.lease
    attempt = event.attempt if isinstance(event, Succeeded | Failed) else 0
    info = ErrorInfo(ErrorKind.BAD_RESULT, "Unstorable", f"the outcome cannot be stored: {error}")
    return Report(report.id, Failed(attempt, lease, info), report.worker, report.run_seconds)

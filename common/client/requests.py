"""Questions about many tasks at a time: each is a message of its own, asked again until it is answered.

That an answer is lost is possible at any time, so each question has to be one that may be asked twice. A question keeps
its correlation id, and the first answer counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final, Generic, TypeVar

from common.client.waiting import ANSWER
from common.errors import ClientClosed, InvalidFilter, WireError
from common.wire import Message, check_type, decode, encode

M = TypeVar("M", bound=Message)

log = logging.getLogger(__name__)

MAX_QUESTION_BYTES: Final = 1024 * 1024
PREFIX = "q"
"""Of the correlation ids."""
NO_ANSWER = "the wait is over: no scheduler has answered; what was asked may have been done"


class Request(Generic[M]):
    """One caller's question.

    Args:
        question: what is sent.
        expected: the type of the answer.
        notify: called when the answer is there, or when there will be none.

    Raises:
        InvalidFilter: it cannot be sent as it is.
    """

    __slots__ = ("_answer", "_expected", "_notify", "question")

    def __init__(self, question: Message, expected: type[M], notify: Callable[[Request[M]], None]) -> None:
        _check(question)
        self.question = question
        self._expected = expected
        self._notify = notify
        self._answer: M | None = None

    def take(self, kind: str | None, body: bytes) -> None:
        """Take the answer.

        Raises:
            WireError: it cannot be decoded, or is the answer to another question.
        """
        check_type(self._expected, kind)
        self._answer = decode(self._expected, body)
        self._notify(self)

    def wake(self) -> None:
        """End the wait without an answer."""
        self._notify(self)

    def result(self) -> M:
        """The answer, once the notification has come.

        Raises:
            ClientClosed: the wait ended without an answer.
        """
        if self._answer is None:
            raise ClientClosed("the client was closed while it waited for the scheduler's answer")
        return self._answer


def _check(question: Message) -> None:
    """Refuse here, where its caller hears of it, what would end the connection that all share, or not be answered."""
    try:
        body = encode(question)
    except UnicodeEncodeError as error:
        raise InvalidFilter(f"{error.object!r:.100} cannot be sent: it is no text that UTF-8 can say") from None
    if len(body) > MAX_QUESTION_BYTES:
        raise InvalidFilter(f"what is asked takes {len(body):,} bytes, {MAX_QUESTION_BYTES:,} are allowed")
    try:
        decode(type(question), body)
    except WireError as error:
        raise InvalidFilter(f"no scheduler would take what is asked: {error}") from None


class Requests:
    """The open requests. Times are seconds of one monotonic clock.

    Attributes:
        due: when to ask each (again); empty while nothing is open.
    """

    def __init__(self) -> None:
        self._open: dict[str, Request[Message]] = {}
        self.due: dict[str, float] = {}
        self._numbers = count(1)

    def add(self, request: Request[M], now: float) -> None:
        """Ask this as soon as possible."""
        key = f"{PREFIX}{next(self._numbers)}"
        self._open[key] = request  # type: ignore[assignment] # what it expects is its own affair
        self.due[key] = now

    def drop(self, request: Request[M]) -> None:
        """Its caller does not wait any more."""
        for key in [key for key, other in self._open.items() if other is request]:
            self._forget(key)

    def connected(self, now: float) -> None:
        """A new connection: what was asked on the last one is asked again."""
        self.due = dict.fromkeys(self._open, now)

    def answered(self, question: str, kind: str | None, body: bytes) -> bool:
        """Apply a message, if it answers one of these.

        Args:
            question: the correlation id.
            kind: the AMQP type.
            body: the payload.

        Returns:
            False when it is about something else.
        """
        if not question.startswith(PREFIX):
            return False
        request = self._open.get(question)
        if request is None:
            return True  # answered before, or nobody waits any more
        try:
            request.take(kind, body)
        except WireError as error:
            log.warning("an answer that cannot be decoded was dropped", extra={"reason": str(error)})
        else:
            self._forget(question)
        return True

    def asks(self, now: float) -> Iterator[tuple[str, Message]]:
        """The questions to be sent now, each with its correlation id."""
        for key in [key for key, due_at in self.due.items() if due_at <= now]:
            self.due[key] = now + ANSWER
            yield key, self._open[key].question

    def wake_at(self) -> float | None:
        """When `asks` has to be called again at the latest; None while nothing is open."""
        return min(self.due.values(), default=None)

    def close(self) -> None:
        """Wake everybody, without an answer."""
        requests = list(self._open.values())
        self._open.clear()
        self.due.clear()
        for request in requests:
            request.wake()

    def _forget(self, key: str) -> None:
        self._open.pop(key, None)
        self.due.pop(key, None)

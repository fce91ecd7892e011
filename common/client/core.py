"""The client without I/O: no sockets, no threads, no clock. Both clients are shells around it.

A shell calls what happened (`connected`, `arrived`, `outbox.confirmed`, ...), then sends what `outbox.take` and `asks`
give it, and comes back at `wake_at`. It makes sure that calls do not overlap.
"""

# ruff: noqa: SLF001 - the core and its handles are one unit
from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

from common.client.handles import BaseHandle, Watcher
from common.client.inquiries import cancel_inquiries, status_inquiries
from common.client.packs import Outbox
from common.client.requests import Requests
from common.client.waiting import Waiting
from common.errors import InvalidTask, WireError
from common.questions import Cancelled, Statuses
from common.wire import Message, Told, decode

H = TypeVar("H", bound=BaseHandle[Any])

log = logging.getLogger(__name__)


class ClientCore:
    """What one client knows.

    Args:
        publish_timeout: seconds until a submission without a confirm is unknown.

    Attributes:
        outbox: submissions on their way.
        waiting: handles without an outcome.
        inquiries: questions about the status of single tasks.
        cancels: wishes that single tasks be cancelled.
        requests: questions about many tasks at a time.
        closed: no more calls are taken.
        is_connected: a connection is up.
        trouble: why there is no connection, for the errors of those who wait for one.
    """

    def __init__(self, publish_timeout: float) -> None:
        self.outbox = Outbox(publish_timeout)
        self.waiting = Waiting()
        self.inquiries = status_inquiries()
        self.cancels = cancel_inquiries()
        self.requests = Requests()
        self._questions = (self.inquiries, self.cancels, self.requests)
        self.closed = False
        self.is_connected = False
        self.trouble = ""

    def connected(self, now: float) -> None:
        """A connection is up, and its reply queue is consumed."""
        self.trouble = ""
        self.is_connected = True
        self.waiting.connected(now)
        for questions in self._questions:
            questions.connected(now)

    def disconnected(self, reason: str) -> None:
        """There is no connection; what was unconfirmed goes out again on the next one."""
        self.trouble = reason
        self.is_connected = False
        self.waiting.disconnected()
        self.outbox.lost_all()

    def claim(self, handle: H, now: float, *, content: int | None) -> H:
        """Wait for the outcome of a task that is about to be submitted.

        Args:
            handle: a new handle.
            now: the time.
            content: stands for what is submitted, when the caller chose the id; if there is a handle with it, that one
                is kept.

        Returns:
            The handle to be given to the caller.

        Raises:
            InvalidTask: this client has given the id to a task with other content.
        """
        if content is None:
            self.waiting.register(handle, now)
            return handle
        known = self.waiting.find(handle.id)
        handle._content = content
        if known is None or type(known) is not type(handle):
            self.waiting.register(handle, now)
            return handle
        if known._content not in (None, content):
            raise InvalidTask(f"the id {handle.id} stands for a task with other content; leave it out to get a new one")
        known._content = content
        known._foreign = False
        known._result_type = handle._result_type
        return known

    def watch(self, handle: BaseHandle[Any], watcher: Watcher, now: float) -> None:
        """Call `watcher` once when the outcome is there, which may be at once, or when the client is closed.

        A handle that is not waited for, since it was made by another process before a fork, is asked about.
        """
        if handle._outcome is not None or self.closed:
            watcher(handle)
            return
        handle._watch(watcher)
        known = self.waiting.find(handle.id)
        if known is None:
            self.waiting.register(handle, now)
            self.waiting.ask_now(handle.id)
        elif known is not handle:
            handle._follow(known)

    def arrived(self, kind: str | None, body: bytes, question: str | None, now: float) -> None:
        """A message has arrived in the reply queue.

        Args:
            kind: the AMQP type.
            body: the payload.
            question: the correlation id.
            now: the time.
        """
        if question is not None and self.requests.answered(question, kind, body):
            return
        try:
            if kind == Told.TYPE:
                self.waiting.told(decode(Told, body), question, now)
            elif kind == Statuses.TYPE:
                statuses = decode(Statuses, body)
                self.inquiries.answered({status.id: status for status in statuses.statuses}, statuses.unknown, now)
            elif kind == Cancelled.TYPE:
                cancelled = decode(Cancelled, body)
                more = cancelled.next is not None
                self.cancels.answered(cancelled.states, cancelled.unknown, now, more=more)
            else:
                log.warning("a message of an unknown type was dropped", extra={"type": kind})
        except WireError as error:
            log.warning("a message that cannot be decoded was dropped", extra={"reason": str(error)})

    def asks(self, now: float) -> Iterator[tuple[str, Message]]:
        """The questions to be sent now, each with its correlation id."""
        if not self.is_connected:
            return iter(())
        asked = [questions.asks(now) for questions in self._questions if questions.due]
        return chain(*asked, self.waiting.asks(now)) if asked else self.waiting.asks(now)

    def expire(self, now: float) -> None:
        """Give up the submissions that had no confirm in time."""
        self.outbox.expire(now, self.trouble)

    def wake_at(self) -> float:
        """When `expire` and `asks` have to be called again at the latest; infinity if nothing is due."""
        due = [self.outbox.deadline()]
        if self.is_connected:
            due.append(self.waiting.wake_at())
            due += [questions.wake_at() for questions in self._questions if questions.due]
        return min((at for at in due if at is not None), default=math.inf)

    def close(self) -> None:
        """Wake everybody who waits. Nothing can be submitted or asked any more."""
        self.closed = True
        self.outbox.close()
        for questions in self._questions:
            questions.close()
        self.waiting.close()

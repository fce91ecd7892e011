"""Questions about single tasks: asked at once, many in one message, and again until they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Final, Generic, TypeVar

from common.client.handles import unknown_task
from common.client.waiting import ANSWER, DOUBT
from common.errors import ClientClosed
from common.questions import Ask, AskKind, Cancel, Filter, TaskStatus
from common.wire import MAX_PACK_ITEMS, Message

A = TypeVar("A")

ANSWER_TIMEOUT: Final = 30.0
"""Seconds that a verb waits for each answer unless it is told otherwise."""


class Inquiry(Generic[A]):
    """One caller's question about one task.

    Attributes:
        task_id: the task.
        answer: the answer, once it is there.
        unknown: the answer is that there is no such task.
    """

    __slots__ = ("_notify", "_ours", "_unknown_since", "answer", "task_id", "unknown")

    def __init__(self, task_id: str, *, ours: bool, notify: Callable[[Inquiry[A]], None]) -> None:
        self.task_id = task_id
        self.answer: A | None = None
        self.unknown = False
        self._ours = ours
        self._unknown_since: float | None = None
        self._notify = notify

    def take(self, answer: A | None, now: float) -> bool:
        """Take an answer; None is `unknown`. Returns whether it is the last word.

        The submission of a task of ours may still be on its way, so that one is asked for until it is known; any other
        is unknown when the scheduler has said so twice.
        """
        self.answer = answer
        if answer is None:
            since = self._unknown_since = now if self._unknown_since is None else self._unknown_since
            if self._ours or now - since < DOUBT:
                return False
            self.unknown = True
        self._notify(self)
        return True

    def result(self) -> A:
        """The answer, once the notification has come.

        Raises:
            UnknownTask: there is no such task.
            ClientClosed: the wait ended without an answer.
        """
        if self.answer is not None:
            return self.answer
        if self.unknown:
            raise unknown_task(self.task_id)
        raise ClientClosed(f"the client was closed while it asked about task {self.task_id}")

    def wake(self) -> None:
        """End the wait without an answer."""
        self._notify(self)


class Inquiries(Generic[A]):
    """The open inquiries of one kind, and the messages that ask for them. Times are seconds of one monotonic clock.

    Args:
        ask: makes the message that asks about these ids.
        prefix: of the correlation ids.

    Attributes:
        due: when to ask about a task (again); empty while nothing is open.
    """

    def __init__(self, ask: Callable[[list[str]], Message], prefix: str) -> None:
        self._ask = ask
        self._prefix = prefix
        self._open: dict[str, list[Inquiry[A]]] = {}
        self.due: dict[str, float] = {}
        self._numbers = count(1)

    def add(self, inquiry: Inquiry[A], now: float) -> None:
        """Ask for this one as soon as possible."""
        self._open.setdefault(inquiry.task_id, []).append(inquiry)
        self.due[inquiry.task_id] = now

    def drop(self, inquiry: Inquiry[A]) -> None:
        """Its caller does not wait any more."""
        still = [other for other in self._open.get(inquiry.task_id, ()) if other is not inquiry]
        if still:
            self._open[inquiry.task_id] = still
        else:
            self._forget(inquiry.task_id)

    def connected(self, now: float) -> None:
        """A new connection: what was asked on the last one is asked again."""
        self.due = dict.fromkeys(self._open, now)

    def answered(self, found: Mapping[str, A], unknown: Iterable[str], now: float, *, more: bool = False) -> None:
        """Apply an answer.

        Args:
            found: what was said, by id.
            unknown: ids of which the scheduler knows nothing.
            now: the time.
            more: it was a part of the answer only; the rest has to be asked for.
        """
        before = len(self._open)
        for task_id, answer in found.items():
            self._apply(task_id, answer, now)
        for task_id in unknown:
            self._apply(task_id, None, now)
        if more and len(self._open) < before:
            self.due.update((task_id, now) for task_id in self._open)

    def asks(self, now: float) -> Iterator[tuple[str, Message]]:
        """The questions to be sent now, each with its correlation id."""
        due = [task_id for task_id, due_at in self.due.items() if due_at <= now]
        for start in range(0, len(due), MAX_PACK_ITEMS):
            page = due[start : start + MAX_PACK_ITEMS]
            self.due.update(dict.fromkeys(page, now + ANSWER))
            yield f"{self._prefix}{next(self._numbers)}", self._ask(page)

    def wake_at(self) -> float | None:
        """When `asks` has to be called again at the latest; None while nothing is open."""
        return min(self.due.values(), default=None)

    def close(self) -> None:
        """Wake everybody, without an answer."""
        inquiries = [inquiry for several in self._open.values() for inquiry in several]
        self._open.clear()
        self.due.clear()
        for inquiry in inquiries:
            inquiry.wake()

    def _apply(self, task_id: str, answer: A | None, now: float) -> None:
        still = [inquiry for inquiry in self._open.get(task_id, ()) if not inquiry.take(answer, now)]
        if still:
            self._open[task_id] = still
            self.due[task_id] = now + DOUBT
        else:
            self._forget(task_id)

    def _forget(self, task_id: str) -> None:
        self._open.pop(task_id, None)
        self.due.pop(task_id, None)


def status_inquiries() -> Inquiries[TaskStatus]:
    """Questions how tasks are."""
    return Inquiries(lambda ids: Ask(AskKind.STATUS, ids), "s")


def cancel_inquiries() -> Inquiries[str]:
    """Wishes that tasks be cancelled; the answer is the state that each has then.

    One of our own that is unknown may still come, and would run then: nobody is told that there is nothing to cancel.
    """
    return Inquiries(lambda ids: Cancel(Filter(ids=ids)), "c")

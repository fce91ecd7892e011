"""The questions about many tasks, for ordinary code: lists, cancelling, dead letters."""

# ruff: noqa: SLF001 - client and questions are one unit
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from typing import TypeVar, Unpack

from common.client.filters import Which, filters
from common.client.inquiries import ANSWER_TIMEOUT
from common.client.link import Link
from common.client.pages import CancelPages, Pages, TaskPages, dead_pages
from common.client.requests import NO_ANSWER, Request
from common.errors import ResultTimeout, UnknownTask
from common.questions import DeadLetter, DeadVerb, TaskStatus
from common.wire import Message

A = TypeVar("A", bound=Message)
I = TypeVar("I")  # noqa: E741
list_ = list  # `DeadLetters.list` hides the name within its class


class Questions:
    """The verbs of a client that are about many of its user's tasks.

    In all of them `timeout` is the seconds to wait for each answer of the scheduler, None for ever, and `which` says
    which tasks, as in `common.client.filters.Which`: those to which all of it applies.
    """

    _link: Link

    def tasks(
        self, *, limit: int | None = None, timeout: float | None = ANSWER_TIMEOUT, **which: Unpack[Which]
    ) -> Iterator[TaskStatus]:
        """List tasks, the newest first, page by page as they are drawn.

        Args:
            limit: tasks at most; None for all.
            timeout, which: see above.

        Raises:
            InvalidFilter: these words can be true of no task; nothing was asked.
            ResultTimeout: no scheduler answered in time (while they are drawn).
            ClientClosed: the client was closed meanwhile.

        Example::

            for task in client.tasks(state="failed", since=timedelta(hours=1), labels={"tenant": "anna"}):
                print(task.id, task.error)
        """
        return self._items(TaskPages(filters(which), limit), timeout)

    def cancel(
        self,
        *,
        timeout: float | None = ANSWER_TIMEOUT,
        on_page: Callable[[Sequence[tuple[str, str]]], None] | None = None,
        **which: Unpack[Which],
    ) -> dict[str, str]:
        """Cancel many tasks, wherever they are; those that are finished stay as they are.

        A filter finds what the scheduler has stored by now: a submission that has just been confirmed may still be on
        its way. Ids are waited for a second.

        Args:
            timeout, which: see above; something has to be said.
            on_page: called with ids and states as the answers come.

        Returns:
            The state of each task now, by id: ``cancelled``, or the outcome that was stored first. ``unknown`` for ids
            that the scheduler does not have. When an answer was lost and had to be asked for again, it may lack tasks
            that a filter with `state` has cancelled.

        Raises:
            InvalidFilter, ResultTimeout, ClientClosed: as in `tasks`. After a `ResultTimeout` some may be cancelled;
                doing it again is safe.
        """
        states: dict[str, str] = {}
        for page in self._pages(CancelPages(filters(which)), timeout):
            states.update(page)
            if on_page is not None:
                on_page(page)
        return states

    @property
    def dead(self) -> DeadLetters:
        """Failed tasks and parked messages."""
        return DeadLetters(self)

    def _items(self, pages: Pages[A, I], timeout: float | None) -> Iterator[I]:
        for page in self._pages(pages, timeout):
            yield from page

    def _pages(self, pages: Pages[A, I], timeout: float | None) -> Iterator[list[I]]:
        while (question := pages.question()) is not None:
            time.sleep(pages.pause)
            yield pages.take(self._asked(question, pages.answer, timeout))

    def _asked(self, question: Message, answer: type[A], timeout: float | None) -> A:
        answered: SimpleQueue[Request[A]] = SimpleQueue()
        request = Request(question, answer, answered.put)
        with self._link.use() as core:
            core.requests.add(request, time.monotonic())
        try:
            answered.get(timeout=timeout if timeout is not None and timeout < TIMEOUT_MAX else None)
        except Empty:
            raise ResultTimeout(NO_ANSWER) from None
        finally:
            with self._link.lock:
                self._link.core.requests.drop(request)
        return request.result()


class DeadLetters:
    """What failed and what was refused, with the verbs about it.

    A dead letter is a failed task, named by its id, or a parked message, named by its number. `reason` is the kind of a
    task's error, such as ``exception`` or ``timeout``, or why a message was parked; it and `which` choose among all.
    """

    def __init__(self, client: Questions) -> None:
        self._client = client

    def list(
        self,
        *,
        reason: str | None = None,
        limit: int | None = None,
        timeout: float | None = ANSWER_TIMEOUT,
        **which: Unpack[Which],
    ) -> Iterator[DeadLetter]:
        """List dead letters, page by page as they are drawn.

        Args:
            reason, which: which ones; all without a word.
            limit: dead letters at most; None for all.
            timeout: seconds to wait for each answer; None waits for ever.

        Raises:
            InvalidFilter, ResultTimeout, ClientClosed: as in `Client.tasks`.
        """
        return self._client._items(dead_pages(DeadVerb.LIST, (), which, reason=reason, limit=limit), timeout)

    def show(self, one: str | int, *, timeout: float | None = ANSWER_TIMEOUT) -> DeadLetter:
        """One dead letter with its payload.

        Args:
            one: the id of a failed task, or the number of a parked message.
            timeout: seconds to wait for the answer; None waits for ever.

        Raises:
            UnknownTask: there is no such dead letter.
            InvalidFilter, ResultTimeout, ClientClosed: as in `Client.tasks`.
        """
        for letter in self._client._items(dead_pages(DeadVerb.SHOW, (one,), {}), timeout):
            return letter
        raise UnknownTask(f"there is no dead letter {one}: it did not fail, or is gone", str(one))

    def replay(
        self,
        *ones: str | int,
        reason: str | None = None,
        timeout: float | None = ANSWER_TIMEOUT,
        on_page: Callable[[Sequence[DeadLetter]], None] | None = None,
        **which: Unpack[Which],
    ) -> Sequence[DeadLetter]:
        """Submit failed tasks again, each as a new task with `replay_of`. What has been replayed before is not again.

        Args:
            ones: ids of failed tasks and numbers of parked messages.
            reason, which: or which ones; all without a word.
            timeout: seconds to wait for each answer; None waits for ever.
            on_page: called with the dead letters as they are done.

        Returns:
            The dead letters; `replayed_as` is the id of the new task.

        Raises:
            InvalidFilter, ResultTimeout, ClientClosed: as in `Client.tasks`. After a `ResultTimeout` some may have
                been replayed; doing it again is safe.
        """
        return self._do(DeadVerb.REPLAY, ones, reason, timeout, on_page, which)

    def purge(
        self,
        *ones: str | int,
        reason: str | None = None,
        timeout: float | None = ANSWER_TIMEOUT,
        on_page: Callable[[Sequence[DeadLetter]], None] | None = None,
        **which: Unpack[Which],
    ) -> Sequence[DeadLetter]:
        """Forget dead letters.

        Args:
            ones, reason, timeout, on_page, which: as in `replay`.

        Returns:
            What was forgotten.

        Raises:
            InvalidFilter, ResultTimeout, ClientClosed: as in `replay`.
        """
        return self._do(DeadVerb.PURGE, ones, reason, timeout, on_page, which)

    def _do(
        self,
        verb: DeadVerb,
        ones: Sequence[str | int],
        reason: str | None,
        timeout: float | None,
        on_page: Callable[[Sequence[DeadLetter]], None] | None,
        which: Which,
    ) -> Sequence[DeadLetter]:
        done: list_[DeadLetter] = []
        for page in self._client._pages(dead_pages(verb, ones, which, reason=reason), timeout):
            done += page
            if on_page is not None:
                on_page(page)
        return done

"""Questions whose answers come in pages. No I/O: a shell asks `question()` and gives the answer to `take()`.

::

    while (question := pages.question()) is not None:
        items = pages.take(ask(question, pages.answer))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from common.client.filters import filters
from common.client.handles import UNKNOWN
from common.client.waiting import DOUBT
from common.errors import InvalidFilter
from common.questions import (
    Cancel,
    Cancelled,
    Dead,
    DeadLetter,
    DeadLetters,
    DeadVerb,
    Filter,
    ListTasks,
    Statuses,
    TaskStatus,
)
from common.wire import MAX_PACK_ITEMS, Message

A = TypeVar("A", bound=Message)
I = TypeVar("I")  # noqa: E741

PAGE: Final = 200
"""Tasks or dead letters of one answer."""
PAYLOADS: Final = 10
"""Dead letters of one answer with their payloads, each of which may be large."""


class Pages(Generic[A, I]):
    """One dialogue.

    Attributes:
        answer: the type of the answers.
        pause: seconds to wait before the next question.
    """

    answer: type[A]
    pause: float = 0.0

    def question(self) -> Message | None:
        """What is to be asked next; None at the end."""
        raise NotImplementedError

    def take(self, answer: A) -> list[I]:
        """The items of an answer."""
        raise NotImplementedError


class TaskPages(Pages[Statuses, TaskStatus]):
    """A list of tasks, the newest first.

    Args:
        filters: which; one after the other.
        limit: tasks at most; None for all.

    Raises:
        InvalidFilter: the limit is no positive number.
    """

    answer = Statuses

    def __init__(self, filters: Iterable[Filter], limit: int | None) -> None:
        self._filters = deque(filters)
        self._left = check_limit(limit)
        self._after: int | None = None

    def question(self) -> Message | None:
        if not self._filters or self._left == 0:
            return None
        return ListTasks(self._filters[0], self._after, PAGE if self._left is None else min(PAGE, self._left))

    def take(self, answer: Statuses) -> list[TaskStatus]:
        statuses = answer.statuses
        if self._left is not None:
            statuses = statuses[: self._left]
            self._left -= len(statuses)
        self._after = answer.next
        if answer.next is None:
            self._filters.popleft()
        return statuses


class CancelPages(Pages[Cancelled, tuple[str, str]]):
    """The cancelling of many tasks; gives ids and the states they have then.

    A task that the scheduler does not know may be on its way there, so it is asked for once more.

    Args:
        filters: which; one after the other.

    Raises:
        InvalidFilter: there is no filter at all.
    """

    answer = Cancelled

    def __init__(self, filters: Iterable[Filter]) -> None:
        self._filters = deque(filters)
        if Filter() in self._filters:
            raise InvalidFilter(
                "say which tasks are to be cancelled; for all of them name the states: scheduled, queued, dispatched"
            )
        self._after: int | None = None
        self._doubtful: list[str] = []
        self._sure = False

    def question(self) -> Message | None:
        self.pause = 0.0
        if not self._filters and self._doubtful and not self._sure:
            self._sure = True
            self.pause = DOUBT
            doubtful, self._doubtful = list(dict.fromkeys(self._doubtful)), []
            pages = range(0, len(doubtful), MAX_PACK_ITEMS)
            self._filters.extend(Filter(ids=doubtful[start : start + MAX_PACK_ITEMS]) for start in pages)
        return Cancel(self._filters[0], self._after) if self._filters else None

    def take(self, answer: Cancelled) -> list[tuple[str, str]]:
        self._after = answer.next
        if answer.next is None:
            self._filters.popleft()
        done = list(answer.states.items())
        if self._sure:
            return [*done, *((task_id, UNKNOWN) for task_id in answer.unknown)]
        self._doubtful += answer.unknown
        return done


class DeadPages(Pages[DeadLetters, DeadLetter]):
    """Dead letters, and what is done with them.

    Args:
        verb: what is done.
        filters: which failed tasks; one after the other.
        parked: the numbers of parked messages.
        reason: only of this reason.
        limit: dead letters at most; None for all.

    Raises:
        InvalidFilter: the limit is no positive number.
    """

    answer = DeadLetters

    def __init__(
        self,
        verb: DeadVerb,
        filters: Iterable[Filter],
        parked: Sequence[int] = (),
        *,
        reason: str | None = None,
        limit: int | None = None,
    ) -> None:
        self._verb = verb
        self._reason = reason
        self._page = PAYLOADS if verb is DeadVerb.SHOW else PAGE
        self._left = check_limit(limit)
        self._after: str | None = None
        self._places: deque[tuple[Filter, list[int] | None]] = deque((where, None) for where in filters)
        pages = range(0, len(parked), MAX_PACK_ITEMS)
        self._places.extend((Filter(), list(parked[start : start + MAX_PACK_ITEMS])) for start in pages)

    def question(self) -> Message | None:
        if not self._places or self._left == 0:
            return None
        where, parked = self._places[0]
        limit = self._page if self._left is None else min(self._page, self._left)
        return Dead(self._verb, where, self._reason, parked, self._after, limit)

    def take(self, answer: DeadLetters) -> list[DeadLetter]:
        letters = answer.letters
        if self._left is not None:
            self._left = max(0, self._left - len(letters))
        self._after = answer.next
        if answer.next is None:
            self._places.popleft()
        return letters


def dead_pages(
    verb: DeadVerb,
    ones: Sequence[str | int],
    words: Mapping[str, Any],
    *,
    reason: str | None = None,
    limit: int | None = None,
) -> DeadPages:
    """The dialogue about some dead letters.

    Args:
        verb: what is done.
        ones: ids of failed tasks and numbers of parked messages.
        words: or which failed tasks, as in `common.client.filters.Which`.
        reason: only of this reason.
        limit: dead letters at most; None for all.

    Raises:
        InvalidFilter: an id, a number, a word or the limit cannot be meant, or there are single ones and words.
    """
    if words.get("state") is not None:
        raise InvalidFilter("dead letters are failed tasks and parked messages; they have a reason and no state")
    if not ones:
        return DeadPages(verb, filters(words), reason=reason, limit=limit)
    if reason is not None or any(value is not None for value in words.values()):
        raise InvalidFilter("name single dead letters or say which, not both")
    parked = [one for one in ones if isinstance(one, int)]
    ids = [one for one in ones if not isinstance(one, int)]
    if any(number < 1 for number in parked):
        raise InvalidFilter("the number of a parked message is 1 or more")
    return DeadPages(verb, filters({"ids": ids}) if ids else (), parked, limit=limit)


def check_limit(limit: int | None) -> int | None:
    """The limit.

    Raises:
        InvalidFilter: it is no positive number.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidFilter(f"a limit is an integer above 0, not {limit!r}")
    return limit

"""What operators ask and order, as people say it, made into messages; and their answers read. No I/O.

A shell asks each `question()` and gives the answer to `take()` (`common.client.pages`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from common.administration import (
    OPERATED,
    Change,
    Changes,
    Command,
    CommandAnswers,
    ListChanges,
    ListQueues,
    ListQuotas,
    ListWorkers,
    QueueReport,
    Queues,
    Quotas,
    Rearrange,
    Rearranged,
    SetQuota,
    WorkerReport,
    Workers,
)
from common.client.pages import PAGE, Pages, check_limit
from common.errors import InvalidFilter, InvalidQuota, NotAllowed
from common.ids import new_nonce
from common.questions import Filter
from common.quotas import Quota, Rate, Scope
from common.wire import ControlVerb, Message

POLL: Final = 0.1
"""Seconds between two looks at what workers have answered."""
WAITING: Final = ("scheduled", "queued")
"""The states of tasks that can be moved."""

A = TypeVar("A", bound=Message)
I = TypeVar("I")  # noqa: E741


class Once(Pages[A, I]):
    """A question with one answer.

    Args:
        question: what is asked.
    """

    def __init__(self, question: Message) -> None:
        self._question: Message | None = question

    def question(self) -> Message | None:
        question, self._question = self._question, None
        return question


class QueuePages(Once[Queues, QueueReport]):
    """The queues: all of them, or those of these names.

    Raises:
        InvalidFilter: no queue can have such a name.
    """

    answer = Queues

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(_convert({"names": list(names) or None}, ListQueues, "queues"))

    def take(self, answer: Queues) -> list[QueueReport]:
        return answer.queues


class WorkerPages(Once[Workers, WorkerReport]):
    """The workers."""

    answer = Workers

    def __init__(self) -> None:
        super().__init__(ListWorkers())

    def take(self, answer: Workers) -> list[WorkerReport]:
        return answer.workers


class QuotaPages(Once[Quotas, Quota]):
    """Quotas, read or changed."""

    answer = Quotas

    def take(self, answer: Quotas) -> list[Quota]:
        """The quotas.

        Raises:
            NotAllowed: the asker is no operator.
            InvalidQuota: such a quota cannot be.
        """
        if answer.error:
            raise (NotAllowed if answer.forbidden else InvalidQuota)(answer.error)
        return answer.quotas


class RearrangePages(Pages[Rearranged, str]):
    """The moving of many tasks; gives the ids of those that are there now.

    Args:
        filters: which; one after the other.
        queue: where to; None: where they are.
        priority: which priority; None: the one that they have.

    Raises:
        InvalidFilter: no task can be moved like this.
    """

    answer = Rearranged

    def __init__(self, filters: Iterable[Filter], *, queue: str | None = None, priority: int | None = None) -> None:
        self._filters = deque(filters)
        if Filter() in self._filters:
            raise InvalidFilter("say which tasks are to be moved")
        if any(set(where.states or ()) - {*WAITING} for where in self._filters):
            raise InvalidFilter("only tasks that are scheduled or queued can be moved")
        self._ask: Rearrange = _convert({"where": {}, "queue": queue, "priority": priority}, Rearrange, "tasks")

    def question(self) -> Rearrange | None:
        if not self._filters:
            return None
        return Rearrange(self._filters[0], self._ask.queue, self._ask.priority, self._ask.after)

    def take(self, answer: Rearranged) -> list[str]:
        """The ids of a page.

        Raises:
            InvalidFilter: tasks cannot be moved there.
        """
        if answer.error:
            raise InvalidFilter(answer.error)
        self._ask.after = answer.next
        if answer.next is None:
            self._filters.popleft()
        return answer.ids


class CommandPages(Pages[CommandAnswers, CommandAnswers]):
    """A command to workers, asked about until it is over; gives the last word.

    Args:
        command: what they are to do; its token makes sure that they are told once.
    """

    answer = CommandAnswers

    def __init__(self, command: Command) -> None:
        self._command: Command | None = command

    def question(self) -> Command | None:
        return self._command

    def take(self, answer: CommandAnswers) -> list[CommandAnswers]:
        """What all have answered, once it is over.

        Raises:
            NotAllowed: the asker is no operator.
            InvalidFilter: there is no such worker, or no such thing to do.
        """
        if answer.error:
            raise (NotAllowed if answer.forbidden else InvalidFilter)(answer.error)
        if not answer.over:
            self.pause = POLL
            return []
        self._command = None
        return [answer]


class ChangePages(Pages[Changes, Change]):
    """What operators have changed, the newest first.

    Args:
        limit: changes at most; None for all.

    Raises:
        InvalidFilter: the limit is no positive number.
    """

    answer = Changes

    def __init__(self, limit: int | None) -> None:
        self._left = check_limit(limit)
        self._after: int | None = None
        self._over = False

    def question(self) -> ListChanges | None:
        if self._over or self._left == 0:
            return None
        return ListChanges(PAGE if self._left is None else min(PAGE, self._left), self._after)

    def take(self, answer: Changes) -> list[Change]:
        changes = answer.changes if self._left is None else answer.changes[: self._left]
        if self._left is not None:
            self._left -= len(changes)
        self._after = answer.next
        self._over = answer.next is None
        return changes


def list_quotas(scope: str | None) -> QuotaPages:
    """The dialogue about the quotas of one scope, or of all.

    Raises:
        InvalidQuota: there is no such scope.
    """
    return QuotaPages(ListQuotas(None if scope is None else _scope(scope)))


def set_quota(
    scope: str,
    name: str,
    *,
    weight: float | UnsetType = UNSET,
    rate: str | Rate | UnsetType | None = UNSET,
    concurrency: int | UnsetType | None = UNSET,
    paused: bool | UnsetType = UNSET,
    ageing: float | timedelta | UnsetType | None = UNSET,
) -> QuotaPages:
    """The dialogue that changes a quota; what is left out stays as it is.

    Raises:
        InvalidQuota: a value cannot be meant, or there is none at all.
    """
    parsed = Rate.parse(rate) if isinstance(rate, str) else rate
    said: dict[str, Any] = {
        "weight": weight,
        "rate": asdict(parsed) if isinstance(parsed, Rate) else parsed,
        "concurrency": concurrency,
        "paused": paused,
        "ageing": ageing.total_seconds() if isinstance(ageing, timedelta) else ageing,
    }
    said = {word: value for word, value in said.items() if value is not UNSET}
    if not said:
        raise InvalidQuota("say what is to be changed: weight, rate, concurrency, paused or ageing")
    try:
        return QuotaPages(msgspec.convert({"scope": _scope(scope), "name": name, **said}, SetQuota))
    except msgspec.ValidationError as error:
        raise InvalidQuota(f"no quota can be like this: {error}") from None


def command(
    verb: str, workers: Sequence[str], *, within: float, slots: int | None = None, level: str | None = None
) -> CommandPages:
    """The dialogue in which workers are told to do something.

    Raises:
        InvalidFilter: there is no such verb, or it needs more words.
    """
    if verb not in OPERATED:
        raise InvalidFilter(f"workers cannot be told to {verb!r}; they can be told to {', '.join(OPERATED)}")
    if (verb == ControlVerb.SLOTS) != (slots is not None):
        raise InvalidFilter("`slots` goes with the verb 'slots', and with no other")
    if (verb == ControlVerb.LOG_LEVEL) != (level is not None):
        raise InvalidFilter("`level` goes with the verb 'log-level', and with no other")
    said = {
        "token": new_nonce(),
        "verb": verb,
        "workers": list(workers) or None,
        "within": within,
        "slots": slots,
        "level": (level or "").upper(),
    }
    return CommandPages(_convert(said, Command, "workers"))


def _scope(scope: str) -> Scope:
    try:
        return Scope(scope)
    except ValueError:
        raise InvalidQuota(f"there are no quotas of a {scope!r}; there are those of {', '.join(Scope)}") from None


def _convert(said: Any, kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(said, kind)
    except msgspec.ValidationError as error:
        raise InvalidFilter(f"{what} cannot be asked about like this: {error}") from None

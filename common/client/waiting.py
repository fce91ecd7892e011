"""Which tasks are waited for, and when the scheduler is asked about them again.

Results are told once and unconfirmed, so each may be missed: the client or the scheduler reconnects, a queue is full.
Therefore every handle that is alive and has no outcome is asked about again::

    registered ── 5 s ──> asked ── 5 s ──> asked ── 10, 20, 30, 30, ... s ──> ...     silence
                          └ one page each 5 s while other results keep coming        no silence
    reconnected ────────> everything is asked once, which also re-points where results are told

Handles are known weakly: one that nobody holds any more is not waited for, and leaves nothing.
"""

# ruff: noqa: SLF001 - the handles and the table that resolves them are one unit
from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, Final
from weakref import WeakValueDictionary

from common.client.handles import UNKNOWN, BaseHandle, is_terminal
from common.questions import Ask, AskKind
from common.wire import MAX_PACK_ITEMS, TaskResult, Told

SILENCE: Final = 5.0
"""Seconds without news after which the scheduler is asked."""
LONGEST: Final = 30.0
"""Seconds between two questions about a task at most, while there is nothing new."""
ANSWER: Final = 5.0
"""Seconds after which a question without an answer is lost."""
PAGES: Final = 2
"""Questions on their way at a time."""
DOUBT: Final = 1.0
"""Seconds between two answers `unknown` that make a task unknown: its submission may be on its way."""
OWN_DOUBT: Final = 300.0
"""The same for a task of this client, whose submission may be in the queue behind very many. Between two answers no
more than `LONGEST` counts: without a scheduler nothing is said, however long it takes."""


class _Line:
    """Handles in the order in which they are asked about.

    Args:
        patience: seconds for which the first of them waits.
    """

    __slots__ = ("handles", "patience", "since")

    def __init__(self, patience: float) -> None:
        self.handles: WeakValueDictionary[str, BaseHandle[Any]] = WeakValueDictionary()
        self.patience = patience
        self.since = math.inf
        """Since when the first has waited, or earlier: to find the first one of a dictionary passes by all that were
        taken out before it, so it is looked for only when it may be its turn."""

    def put(self, handle: BaseHandle[Any]) -> None:
        """Behind all others."""
        # Not empty does not mean that `look` has seen one: the dead are taken out a moment after they have died.
        self.since = min(self.since, handle._since) if self.handles else handle._since
        self.handles[handle.id] = handle

    def look(self) -> None:
        """See since when the first has waited."""
        first = next(iter(self.handles.values()), None)
        self.since = math.inf if first is None else first._since


class Waiting:
    """The handles without an outcome, and the questions about them. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._fresh = _Line(SILENCE)
        """Never asked about, in the order of registration."""
        self._asked = _Line(SILENCE)
        """Asked about, in the order of the last question."""
        self._urgent: dict[str, None] = {}
        self._rechecks: dict[str, float] = {}
        self._on_the_way: dict[str, float] = {}
        self._numbers = count(1)
        self._connected = False
        self._reconnected_at = self._news_at = self._backed_off_at = self._paged_at = -math.inf
        self._ever_connected = False
        self._interval = SILENCE

    def __len__(self) -> int:
        return len(self._fresh.handles) + len(self._asked.handles)

    def register(self, handle: BaseHandle[Any], now: float) -> None:
        """Wait for a new handle, whose id nobody else waits for."""
        handle._since = now
        self._fresh.put(handle)

    def find(self, task_id: str) -> BaseHandle[Any] | None:
        """The handle that is waited for under this id."""
        return self._fresh.handles.get(task_id) or self._asked.handles.get(task_id)

    def ask_now(self, task_id: str) -> None:
        """Ask about this task at the next opportunity."""
        self._urgent[task_id] = None

    def connected(self, now: float) -> None:
        """A connection with a new reply queue is there. After a loss everything is asked, to be told there."""
        if self._ever_connected:
            self._reconnected_at = now
        self._connected = self._ever_connected = True
        self._on_the_way.clear()

    def disconnected(self) -> None:
        """There is no connection: nothing can be asked."""
        self._connected = False
        self._on_the_way.clear()

    def told(self, told: Told, question: str | None, now: float) -> None:
        """Apply results, or the answer to a question.

        Args:
            told: what the scheduler said.
            question: the correlation id, if it is an answer.
            now: the time.
        """
        news = False
        for result in told.results:
            if is_terminal(result.state):
                handle = self._pop(result.id)
                if handle is not None:
                    news = True
                    handle._resolve(result)
        for task_id in told.unknown:
            news |= self._unknown(task_id, now)
        self._answered(question, news, now)

    def asks(self, now: float) -> Iterator[tuple[str, Ask]]:
        """The questions to be sent now, each with its correlation id."""
        if not self._connected:
            return
        for question in [key for key, lost_at in self._on_the_way.items() if lost_at <= now]:
            del self._on_the_way[question]
        for task_id in [key for key, due_at in self._rechecks.items() if due_at <= now]:
            del self._rechecks[task_id]
            self._urgent[task_id] = None
        while len(self._on_the_way) < PAGES and (page := self._page(now)):
            question = f"w{next(self._numbers)}"
            self._on_the_way[question] = now + ANSWER
            yield question, Ask(AskKind.WAIT, page)

    def wake_at(self) -> float | None:
        """When `asks` has to be called again at the latest; None while there is nothing to wait for."""
        if not self._connected:
            return None
        due = [*self._on_the_way.values(), *self._rechecks.values()]
        if len(self._on_the_way) < PAGES:
            if self._urgent:
                return -math.inf
            due += [self._due_at(line) for line in self._lines() if line.handles]
        return min(due, default=None)

    def close(self) -> None:
        """Wake everybody who watches a handle, without an outcome."""
        handles = [*self._fresh.handles.values(), *self._asked.handles.values()]
        self._fresh.handles.clear()
        self._asked.handles.clear()
        for handle in handles:
            handle._wake()

    def _pop(self, task_id: str) -> BaseHandle[Any] | None:
        handle = self._fresh.handles.pop(task_id, None)
        return handle if handle is not None else self._asked.handles.pop(task_id, None)

    def _page(self, now: float) -> list[str]:
        """The ids of the next question: what is urgent, then what has waited longest, if it has waited enough."""
        page = []
        for task_id in list(islice(self._urgent, MAX_PACK_ITEMS)):
            del self._urgent[task_id]
            if self._ask_later(task_id, now):
                page.append(task_id)
        for line in self._lines():
            if not line.handles or len(page) >= MAX_PACK_ITEMS or self._due_at(line) > now:
                continue
            line.look()
            if self._due_at(line) <= now:
                page += self._overdue(line, now, MAX_PACK_ITEMS - len(page))
                self._paged_at = now
        return page

    def _overdue(self, line: _Line, now: float, room: int) -> list[str]:
        late = []
        for task_id, handle in islice(line.handles.items(), room):
            if handle._since >= self._reconnected_at and handle._since + line.patience > now:
                break
            late.append(task_id)
        return [task_id for task_id in late if self._ask_later(task_id, now)]

    def _ask_later(self, task_id: str, now: float) -> bool:
        """Put the handle behind all that were asked about; False when nobody waits for it any more."""
        handle = self._pop(task_id)
        if handle is None:
            return False
        handle._since = now
        self._asked.put(handle)
        return True

    def _lines(self) -> tuple[_Line, _Line]:
        self._asked.patience = self._interval
        return self._fresh, self._asked

    def _due_at(self, line: _Line) -> float:
        """When the first handle of this line may be asked about, or earlier."""
        if line.since < self._reconnected_at:
            return self._reconnected_at
        # While results keep coming, what is missing is most likely just not finished: ask little.
        return max(line.since + line.patience, min(self._paged_at, self._news_at) + SILENCE)

    def _unknown(self, task_id: str, now: float) -> bool:
        handle = self.find(task_id)
        if handle is None:
            return False
        if math.isinf(handle._unknown_at):
            if handle._foreign:
                self._rechecks[task_id] = now + DOUBT
        else:
            handle._unknown_for += min(LONGEST, now - handle._unknown_at)
        handle._unknown_at = now
        if handle._unknown_for < (DOUBT if handle._foreign else OWN_DOUBT):
            return False
        self._pop(task_id)
        handle._resolve(TaskResult(task_id, UNKNOWN))
        return True

    def _answered(self, question: str | None, news: bool, now: float) -> None:
        if question is not None:
            self._on_the_way.pop(question, None)
        if news:
            self._news_at = now
            self._interval = SILENCE
        elif question is not None and now - max(self._news_at, self._backed_off_at) >= self._interval:
            self._backed_off_at = now
            self._interval = min(LONGEST, self._interval * 2)

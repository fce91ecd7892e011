"""What was ended by force: an attempt that was cancelled, or is over its hard timeout, is answered as that.

Whatever the task function itself still says does not count. One that does not end at all is given up: it is answered,
its slot is used by others, and its late end changes nothing. Until then it holds a thread or a coroutine, so the worker
counts those that go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from enum import Enum, auto

from common.wire import Outcome, ReturnReason
from worker_service.attempts import Attempt
from worker_service.results import returned, timed_out
from worker_service.runtimes import Done

_log = logging.getLogger(__name__)


class Ending(Enum):
    """What was done to an attempt that runs."""

    CANCELLED = auto()
    TIMED_OUT = auto()
    GIVEN_UP = auto()


class Endings:
    """The attempts that were ended by force and have not ended yet.

    Attributes:
        given_up: how many of them were given up.
    """

    def __init__(self) -> None:
        self._endings: dict[Attempt, Ending] = {}
        self.given_up = 0

    def cancelled(self, attempt: Attempt) -> bool:
        """Nobody wants its result. False when it was ended before."""
        if attempt in self._endings:
            return False
        self._endings[attempt] = Ending.CANCELLED
        return True

    def timed_out(self, attempt: Attempt) -> None:
        """Its hard timeout is over. One that was cancelled before stays that."""
        self._endings.setdefault(attempt, Ending.TIMED_OUT)

    def give_up(self, attempt: Attempt) -> Outcome:
        """Expect nothing more of it; how it is answered."""
        outcome = self._forced(attempt, None)
        self._endings[attempt] = Ending.GIVEN_UP
        self.given_up += 1
        return outcome

    def going_on(self) -> list[Attempt]:
        """Those that were given up and have not ended."""
        return [attempt for attempt, ending in self._endings.items() if ending is Ending.GIVEN_UP]

    def settled(self, done: Sequence[Done]) -> Sequence[Done]:
        """`done`, with what was ended by force answered as that, and without what was given up."""
        if not self._endings:
            return done
        settled: list[Done] = []
        for attempt, outcome in done:
            ending = self._endings.get(attempt)
            if ending is None:
                settled.append((attempt, outcome))
            elif ending is Ending.GIVEN_UP:
                self.given_up -= 1
                _log.warning("a task function that was given up has ended", extra={"task_id": attempt.assignment.id})
            else:
                settled.append((attempt, self._forced(attempt, outcome)))
            self._endings.pop(attempt, None)
        return settled

    def _forced(self, attempt: Attempt, outcome: Outcome | None) -> Outcome:
        if self._endings[attempt] is Ending.CANCELLED:
            return returned(attempt.assignment, ReturnReason.CANCELLED)
        seconds = asyncio.get_running_loop().time() - attempt.started
        assert attempt.policy is not None
        trace = "" if outcome is None or outcome.error is None else outcome.error.traceback
        return timed_out(attempt.assignment, attempt.policy, seconds, trace)

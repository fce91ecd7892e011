"""Timeouts of running attempts, in the main event loop: a handler that blocks its own thread cannot hold them up.

::

    start ──timeout──> `TaskTimeout` is raised in it ──hard timeout──> it is ended ──grace──> it is given up
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker_service.attempts import Attempt


class Deadlines:
    """Watches attempts that have a policy with timeouts.

    Args:
        interrupt: raises `TaskTimeout` in one.
        end: ends one by force.
        give_up: goes on without one that does not end.
        grace: seconds from `end` to `give_up`.
    """

    def __init__(
        self,
        *,
        interrupt: Callable[[Attempt], None],
        end: Callable[[Attempt], None],
        give_up: Callable[[Attempt], None],
        grace: float,
    ) -> None:
        self._interrupt = interrupt
        self._end = end
        self._give_up = give_up
        self._grace = grace
        self._timers: dict[Attempt, list[asyncio.TimerHandle]] = {}

    def watch(self, attempt: Attempt) -> None:
        """Start its clock."""
        policy = attempt.policy
        assert policy is not None
        later = asyncio.get_running_loop().call_later
        timers = []
        if policy.timeout is not None:
            timers.append(later(policy.timeout, self._interrupt, attempt))
        if policy.hard_timeout is not None:
            timers.append(later(policy.hard_timeout, self._end_soon, attempt))
        if timers:
            self._timers[attempt] = timers

    def forget(self, attempt: Attempt) -> None:
        """It has ended."""
        for timer in self._timers.pop(attempt, ()):
            timer.cancel()

    def next_in(self) -> float | None:
        """Seconds until the next one is over, 0 or more; None without any."""
        now = asyncio.get_running_loop().time()
        wanted = [timer.when() - now for timers in self._timers.values() for timer in timers if not timer.cancelled()]
        return min((seconds for seconds in wanted if seconds > 0), default=None)

    def stop(self) -> None:
        """Forget them all."""
        for attempt in list(self._timers):
            self.forget(attempt)

    def _end_soon(self, attempt: Attempt) -> None:
        self._timers[attempt].append(asyncio.get_running_loop().call_later(self._grace, self._give_up, attempt))
        self._end(attempt)

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
        self._timers: dict[Attempt, list[_Timer]] = {}

    def watch(self, attempt: Attempt) -> None:
        """Start its clock."""
        policy = attempt.policy
        assert policy is not None
        timers = []
        if policy.timeout is not None:
            timers.append(_Timer(policy.timeout, self._interrupt, attempt))
        if policy.hard_timeout is not None:
            timers.append(_Timer(policy.hard_timeout, self._end_soon, attempt))
        if timers:
            self._timers[attempt] = timers

    def forget(self, attempt: Attempt) -> None:
        """It has ended."""
        for timer in self._timers.pop(attempt, ()):
            timer.handle.cancel()

    def next_in(self) -> float | None:
        """Seconds until the next one is over, 0 or more; None without any."""
        now = asyncio.get_running_loop().time()
        left = (timer.at - now for timers in self._timers.values() for timer in timers)
        return min((seconds for seconds in left if seconds > 0), default=None)

    def stop(self) -> None:
        """Forget them all."""
        for attempt in list(self._timers):
            self.forget(attempt)

    def _end_soon(self, attempt: Attempt) -> None:
        self._timers[attempt].append(_Timer(self._grace, self._give_up, attempt))
        self._end(attempt)


class _Timer:
    """Calls `what` in `seconds`. It knows when: a handle that is due at once does not in uvloop."""

    __slots__ = ("at", "handle")

    def __init__(self, seconds: float, what: Callable[[Attempt], None], attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        self.at = loop.time() + seconds
        self.handle: asyncio.Handle = loop.call_later(seconds, what, attempt)

"""Hands outcomes from the threads that made them to the main event loop: one wake-up for all that is there.

A `call_soon_threadsafe` for each task would cost more than a short task itself. So the first outcome wakes the loop,
and those that are made until it comes round go with it. The deque is never replaced, only emptied: an outcome appended
at any moment is either seen by the emptying that goes on or, as the flag is cleared before it, wakes the loop again.
"""

from __future__ import annotations

import asyncio
from collections import deque

from common.wire import Outcome
from worker_service.attempts import Attempt
from worker_service.runtimes import Done, Finished


class Handover:
    """From any thread into one event loop.

    Args:
        loop: the event loop of the receiver.
        finished: the receiver.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, finished: Finished) -> None:
        self._loop = loop
        self._finished = finished
        self._done: deque[Done] = deque()
        self._woken = False
        self._closed = False

    def put(self, attempt: Attempt, outcome: Outcome) -> None:
        """Hand over one outcome. May be called in any thread."""
        self._done.append((attempt, outcome))
        if not self._woken and not self._closed:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                self._closed = True  # the loop is closed: this outcome comes after the end

    def close(self) -> None:
        """Drop what comes from now on."""
        self._closed = True

    def _collect(self) -> None:
        self._woken = False
        batch = [self._done.popleft() for _ in range(len(self._done))]
        if batch and not self._closed:
            self._finished(batch)

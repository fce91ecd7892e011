"""Plain functions, in threads.

A pool of its own, because waking one thread for each task costs more than a short task. All threads take from one
deque, and at most one thread at a time is being woken: when it comes round it takes a task and, if there are more,
wakes the next one before it runs its own. Tasks that wait (for a socket, a lock) let the next thread run at once and so
spread over all threads; tasks that are over within microseconds are all run by the first thread before a second one
gets to run, with one wake-up for the whole batch.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue

from worker_service.attempts import Attempt
from worker_service.pipeline import run_plain
from worker_service.results import Limits
from worker_service.runtimes import Finished
from worker_service.runtimes.handover import Handover

_STOP_SECONDS = 2.0
_log = logging.getLogger(__name__)


class ThreadRuntime:
    """Runs attempts in `size` threads.

    Args:
        size: how many threads; attempts beyond wait in their order.
        limits: bounds on arguments and results.
        finished: told of what has ended, in the loop that called `start`.
    """

    def __init__(self, size: int, limits: Limits, finished: Finished) -> None:
        self._size = size
        self._limits = limits
        self._finished = finished
        self._threads: list[threading.Thread] = []
        self._tasks: deque[Attempt] = deque()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._waking = False
        self._stopping = False

    async def start(self) -> None:
        """Start the threads."""
        if self._threads:
            return
        self._handover = Handover(asyncio.get_running_loop(), self._finished)
        for number in range(self._size):
            thread = threading.Thread(target=self._serve, name=f"plain-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def run(self, attempts: Sequence[Attempt]) -> None:
        """See `Runtime.run`."""
        self._tasks.extend(attempts)
        self._wake_one()

    async def stop(self) -> None:
        """End the idle threads; those whose function still runs are abandoned."""
        threads, self._threads = self._threads, []
        if not threads:
            return
        self._stopping = True
        self._tasks.clear()
        self._handover.close()
        for _ in threads:
            self._wake.put(False)
        stuck = await asyncio.get_running_loop().run_in_executor(None, _join, threads)
        if stuck:
            _log.error("plain functions still run in their threads, they are abandoned", extra={"threads": stuck})

    def _wake_one(self) -> None:
        # Two threads may both come here and wake two: harmless. None is missed: the woken one clears the flag before
        # it looks for tasks, so whoever finds the flag set has added its task before that look.
        if not self._waking:
            self._waking = True
            self._wake.put(True)

    def _serve(self) -> None:
        while self._wake.get():
            self._waking = False
            while not self._stopping:
                try:
                    attempt = self._tasks.popleft()
                except IndexError:
                    break
                if self._tasks:
                    self._wake_one()
                # A context of its own for each task: a variable that one sets must not reach the next.
                outcome = contextvars.Context().run(run_plain, attempt.assignment, attempt.handler, self._limits)
                self._handover.put(attempt, outcome)


def _join(threads: Sequence[threading.Thread]) -> int:
    """Wait for the threads, `_STOP_SECONDS` in all. Returns how many still run."""
    ended = threading.Event()
    timer = threading.Timer(_STOP_SECONDS, ended.set)
    timer.daemon = True
    timer.start()
    for thread in threads:
        while thread.is_alive() and not ended.is_set():
            thread.join(0.05)
    timer.cancel()
    return sum(thread.is_alive() for thread in threads)

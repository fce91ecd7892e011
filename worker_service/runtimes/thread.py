"""Plain functions, in threads.

A pool of its own, because waking one thread for each task costs more than a short task. All threads take from one
deque, and at most one thread at a time is being woken: when it comes round it takes a task and, if there are more,
wakes the next one before it runs its own. Tasks that wait (for a socket, a lock) let the next thread run at once and so
spread over all threads; tasks that are over within microseconds are all run by the first thread before a second one
gets to run, with one wake-up for the whole batch.

A thread cannot be killed. One whose function does not end after its hard timeout is given up: another thread takes its
place, and should the function end after all, its thread ends too.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue

from common.context import Surroundings, TaskContext
from common.wire import ReturnReason
from worker_service.attempts import Attempt
from worker_service.interrupts import ThreadInterrupt
from worker_service.pipeline import run_plain
from worker_service.results import Limits, returned
from worker_service.runtimes import Finished, Missed
from worker_service.runtimes.awaits import frame_lines, thread_frames
from worker_service.runtimes.handover import Handover
from worker_service.runtimes.limits import deadline, interruptible

_STOP_SECONDS = 2.0
_log = logging.getLogger(__name__)


class ThreadRuntime:
    """Runs attempts in `size` threads.

    Args:
        size: how many threads; attempts beyond wait in their order.
        limits: bounds on arguments and results.
        finished: told of what has ended, in the loop that called `start`.
        missed: tells what must not be begun any more.
        surroundings: what is done for the tasks.
    """

    def __init__(
        self, size: int, limits: Limits, finished: Finished, missed: Missed, surroundings: Surroundings
    ) -> None:
        self._size = size
        self._surroundings = surroundings
        self._interrupts: dict[Attempt, ThreadInterrupt] = {}
        self._limits = limits
        self._finished = finished
        self._missed = missed
        self._threads: list[threading.Thread] = []
        self._tasks: deque[Attempt] = deque()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._waking = False
        self._stopping = False
        self._serving: dict[int, Attempt] = {}
        """What each thread, by its number, has begun last."""

    async def start(self) -> None:
        """Start the threads."""
        if self._threads:
            return
        self._handover = Handover(asyncio.get_running_loop(), self._finished)
        for _ in range(self._size):
            self._start_thread()

    def grow(self, size: int) -> None:
        """Have `size` threads from now on, where there are fewer; those beyond stay idle."""
        wanted, self._size = size - self._size, max(size, self._size)
        if self._threads:
            for _ in range(wanted):
                self._start_thread()

    def run(self, attempts: Sequence[Attempt]) -> None:
        """See `Runtime.run`."""
        for attempt in attempts:
            attempt.context = TaskContext(attempt.assignment, attempt.bundle.queue, self._surroundings)
            if attempt.policy is not None and interruptible(attempt.policy):
                self._interrupts[attempt] = ThreadInterrupt()
        self._tasks.extend(attempts)
        self._wake_one()

    def interrupt(self, attempt: Attempt) -> None:
        """See `Runtime.interrupt`."""
        if (interrupt := self._interrupts.get(attempt)) is not None:
            interrupt.raise_in()

    def cancel(self, attempt: Attempt) -> None:
        """See `Runtime.cancel`: the function sees ``ctx.cancelled``."""
        attempt.context.cancelled = True

    def end(self, attempt: Attempt) -> None:
        """See `Runtime.end`: `TaskTimeout`, if it had none before, and ``ctx.cancelled``."""
        self.cancel(attempt)
        self.interrupt(attempt)

    def abandon(self, attempt: Attempt) -> None:
        """See `Runtime.abandon`: another thread takes its place, unless it has ended at this moment."""
        if self._interrupts.pop(attempt, None) is not None:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._start_thread()

    async def stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        """See `Runtime.stacks`."""
        return await asyncio.get_running_loop().run_in_executor(None, self._stacks, frozenset(attempts))

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

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"plain-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _wake_one(self) -> None:
        # Two threads may both come here and wake two: harmless. None is missed: the woken one clears the flag before
        # it looks for tasks, so whoever finds the flag set has added its task before that look.
        if not self._waking:
            self._waking = True
            self._wake.put(True)

    def _serve(self) -> None:
        me = threading.get_ident()
        while self._wake.get():
            self._waking = False
            while not self._stopping:
                try:
                    attempt = self._tasks.popleft()
                except IndexError:
                    break
                if self._tasks:
                    self._wake_one()
                self._serving[me] = attempt
                # A context of its own for each task: a variable that one sets must not reach the next.
                own = contextvars.Context()
                if attempt.policy is None and self._missed(attempt.started):
                    self._handover.put(attempt, returned(attempt.assignment, ReturnReason.AWAY))
                elif attempt.policy is None:
                    self._handover.put(attempt, own.run(run_plain, attempt.context, attempt.handler, self._limits))
                elif not own.run(self._run_limited, attempt):
                    self._serving.pop(me, None)
                    return
            self._serving.pop(me, None)

    def _stacks(self, attempts: frozenset[Attempt]) -> dict[Attempt, list[str]]:
        frames = sys._current_frames()  # noqa: SLF001 - the only way to see them
        serving = dict(self._serving)
        return {
            attempt: frame_lines(thread_frames(frames[thread]))
            for thread, attempt in serving.items()
            if attempt in attempts and thread in frames
        }

    def _run_limited(self, attempt: Attempt) -> bool:
        """Run one that has a policy. False when it was given up, and another thread has taken this one's place."""
        assert attempt.policy is not None
        stays = True
        if attempt.context.cancelled:
            outcome = returned(attempt.assignment, ReturnReason.CANCELLED)  # before it could start
        elif self._missed(attempt.started):
            outcome = returned(attempt.assignment, ReturnReason.AWAY)
        else:
            attempt.context.deadline = deadline(attempt.policy)
            interrupt = self._interrupts.get(attempt)
            outcome = run_plain(attempt.context, attempt.handler, self._limits, interrupt)
        if interruptible(attempt.policy):
            # Whoever takes it out first decides: this thread, or `abandon`.
            stays = self._interrupts.pop(attempt, None) is not None
        self._handover.put(attempt, outcome)
        return stays


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

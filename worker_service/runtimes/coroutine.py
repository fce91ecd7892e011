"""Coroutine functions, in an event loop of their own in a thread of its own.

Apart from the loop that talks to the broker: a handler that blocks its loop stops the other coroutine handlers, but
neither heartbeats nor beats, replies or health. Which one it is, and where, is logged once for each time.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

from common.context import Surroundings, TaskContext
from common.lifecycle import loop_factory
from common.wire import ReturnReason
from worker_service.attempts import Attempt
from worker_service.interrupts import CoroutineInterrupt
from worker_service.pipeline import run_coroutine
from worker_service.results import Limits, returned
from worker_service.runtimes import Finished, Missed
from worker_service.runtimes.awaits import task_lines
from worker_service.runtimes.handover import Handover
from worker_service.runtimes.limits import deadline

_STOP_SECONDS = 2.0
_FRAMES = 20
_log = logging.getLogger(__name__)


class Blockage(NamedTuple):
    """A task function that blocks the loop.

    Attributes:
        attempt: whose; None when it is a task that a task function left behind, or a callback.
        seconds: for how long by now.
        stack: where it is.
    """

    attempt: Attempt | None
    seconds: float
    stack: str


class CoroutineRuntime:
    """Runs attempts as tasks of one event loop.

    Args:
        limits: bounds on arguments and results.
        finished: told of what has ended, in the loop that called `start`.
        missed: tells what must not be begun any more.
        surroundings: what is done for the tasks.
        new_loop: makes the event loop; by default uvloop's where it is installed.
    """

    def __init__(
        self,
        limits: Limits,
        finished: Finished,
        missed: Missed,
        surroundings: Surroundings,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._new_loop = new_loop
        self._limits = limits
        self._finished = finished
        self._missed = missed
        self._surroundings = surroundings
        self._tasks: dict[Attempt, asyncio.Task[None]] = {}
        self._interrupts: dict[Attempt, CoroutineInterrupt] = {}
        self._blamed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._probed = 0.0
        self._lag = 0.0
        self._worst = 0.0

    async def start(self) -> None:
        """Start the thread and its loop."""
        if self._thread is not None:
            return
        self._handover = Handover(asyncio.get_running_loop(), self._finished)
        factory = self._new_loop or loop_factory() or asyncio.new_event_loop
        self._loop = factory()
        self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="coroutines", daemon=True)
        self._thread.start()

    def run(self, attempts: Sequence[Attempt]) -> None:
        """See `Runtime.run`."""
        assert self._loop is not None
        for attempt in attempts:
            attempt.context = TaskContext(attempt.assignment, attempt.bundle.queue, self._surroundings)
        self._loop.call_soon_threadsafe(self._begin, attempts)

    def interrupt(self, attempt: Attempt) -> None:
        """See `Runtime.interrupt`."""
        self._in_loop(self._interrupt, attempt)

    def cancel(self, attempt: Attempt) -> None:
        """See `Runtime.cancel`."""
        attempt.context.cancelled = True
        self._in_loop(self._cancel, attempt)

    end = cancel

    def abandon(self, attempt: Attempt) -> None:
        """See `Runtime.abandon`: there is room for any number of tasks."""

    def probe(self) -> None:
        """Measure how late the loop is; `lag` tells. Call it now and then."""
        if self._loop is not None and not self._probed and not self._stopping:
            self._probed = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer_probe)

    @property
    def lag(self) -> float:
        """Seconds by which the loop ran the last probe late, or by which it is late now."""
        probed = self._probed
        return max(self._lag, time.monotonic() - probed) if probed else self._lag

    def take_worst_lag(self) -> float:
        """The longest that a probe was late since the last call, seconds; one that has not come back counts too."""
        probed, worst = self._probed, self._worst
        self._worst = 0.0
        return max(worst, time.monotonic() - probed) if probed else worst

    def blockage(self, after: float) -> Blockage | None:
        """Who blocks the loop for more than `after` seconds, told once for each time."""
        late = time.monotonic() - self._probed if self._probed else 0.0
        if late < after:
            self._blamed = False
            return None
        if self._blamed or self._thread is None:
            return None
        self._blamed = True
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - the only way to see it
        current = asyncio.current_task(self._loop)
        attempt = next((each for each, task in list(self._tasks.items()) if task is current), None)
        return Blockage(attempt, late, "".join(traceback.format_stack(frame)[-_FRAMES:]) if frame else "")

    async def stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        """See `Runtime.stacks`. From another thread, since this loop may be blocked."""
        return await asyncio.get_running_loop().run_in_executor(None, self._stacks, attempts)

    async def stop(self) -> None:
        """Cancel what still runs; give up on a loop that is blocked for more than 2 s."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None:
            return
        self._stopping = True
        self._handover.close()
        self._loop.call_soon_threadsafe(self._cancel_all)
        await asyncio.get_running_loop().run_in_executor(None, thread.join, _STOP_SECONDS)
        if thread.is_alive():
            _log.error("a coroutine function blocks its event loop, it is abandoned")

    def _begin(self, attempts: Sequence[Attempt]) -> None:
        loop = self._loop
        assert loop is not None
        for attempt in attempts:
            # The loop itself keeps only weak references to tasks.
            self._tasks[attempt] = loop.create_task(self._one(attempt))

    async def _one(self, attempt: Attempt) -> None:
        if attempt.context.cancelled:  # while the loop was blocked
            del self._tasks[attempt]
            self._handover.put(attempt, returned(attempt.assignment, ReturnReason.CANCELLED))
            return
        if self._missed(attempt.started):
            del self._tasks[attempt]
            self._handover.put(attempt, returned(attempt.assignment, ReturnReason.AWAY))
            return
        interrupt: CoroutineInterrupt | None = None
        if attempt.policy is not None:
            attempt.context.deadline = deadline(attempt.policy)
            if attempt.policy.timeout is not None:
                interrupt = self._interrupts[attempt] = CoroutineInterrupt()
        outcome = await run_coroutine(attempt.context, attempt.handler, self._limits, interrupt)
        del self._tasks[attempt]
        if interrupt is not None:
            del self._interrupts[attempt]
        self._handover.put(attempt, outcome)

    def _in_loop(self, act: Callable[[Attempt], None], attempt: Attempt) -> None:
        loop = self._loop
        assert loop is not None
        # One round later: a task that is cancelled before its first step would never be heard of.
        loop.call_soon_threadsafe(loop.call_soon, act, attempt)

    def _interrupt(self, attempt: Attempt) -> None:
        interrupt, task = self._interrupts.get(attempt), self._tasks.get(attempt)
        if interrupt is not None and task is not None:
            interrupt.raise_in(task)

    def _cancel(self, attempt: Attempt) -> None:
        if (interrupt := self._interrupts.get(attempt)) is not None:
            interrupt.pending = False
        if (task := self._tasks.get(attempt)) is not None:
            task.cancel()

    def _stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        tasks = {attempt: task for attempt in attempts if (task := self._tasks.get(attempt)) is not None}
        return {attempt: task_lines(task, self._frame) for attempt, task in tasks.items()}

    def _frame(self, task: asyncio.Task[Any]) -> FrameType | None:
        """The innermost frame of the loop's thread, when it runs this task at the moment."""
        if self._thread is None or asyncio.current_task(self._loop) is not task:
            return None
        return sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - the only way to see it

    def _answer_probe(self) -> None:
        self._lag = time.monotonic() - self._probed
        self._worst = max(self._worst, self._lag)
        self._probed = 0.0

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            while not self._stopping:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as error:
                    # From a task that a handler left behind; a handler's own is caught as its outcome.
                    _log.error("a background task of a task function raised %s", type(error).__name__)
            loop.run_until_complete(self._finish())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _cancel_all(self) -> None:
        loop = self._loop
        assert loop is not None
        loop.stop()

    async def _finish(self) -> None:
        """Cancel every task of the loop, also those that handlers left behind, and give them a moment."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS / 2)
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()

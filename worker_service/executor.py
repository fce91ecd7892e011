"""Slots: which attempts run now, and what happens to those that cannot.

In order of arrival, while there are free slots. What has not started `patience` seconds after it arrived goes back
(`returned`, busy), so that no task waits here while another worker idles. Suspects run in a process of their own. One
that is to run `alone` closes the worker: newcomers go back, what runs is finished, then it runs by itself, so that if
it takes the whole worker with it no other task is blamed.

Everything here happens in the main event loop; only batches cross to the runtimes' threads and back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from common.telemetry import Telemetry
from common.wire import Isolation, ReturnReason
from worker_service.attempts import Attempt
from worker_service.events import Started
from worker_service.handlers import Handler
from worker_service.results import returned
from worker_service.runtimes import Done, Runtime

ALONE_PATIENCE: Final = 60.0
"""Seconds that an `alone` attempt waits for the others to finish before another worker may have it."""

_log = logging.getLogger(__name__)


class Executor:
    """Runs attempts in slots.

    Args:
        handlers: the task functions, by name.
        coroutines, threads, children: the runtimes.
        answer: takes the outcomes.
        announce: sends a beat and waits for its confirm.
        slots: how many attempts run at a time.
        patience: seconds that an attempt waits for a slot.
        drain_timeout: seconds that running attempts have to finish on `drain`.
        telemetry: where `Started` goes.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        coroutines: Runtime,
        threads: Runtime,
        children: Runtime,
        answer: Callable[[Sequence[Done]], None],
        announce: Callable[[], Awaitable[None]],
        slots: int,
        patience: float,
        drain_timeout: float,
        telemetry: Telemetry,
    ) -> None:
        self._handlers = handlers
        self._coroutines = coroutines
        self._threads = threads
        self._children = children
        self._answer = answer
        self._announce = announce
        self._announcing: asyncio.Task[None] | None = None
        self._slots = slots
        self._patience = patience
        self._drain_timeout = drain_timeout
        self._telemetry = telemetry
        self._waiting: deque[Attempt] = deque()
        self._running: set[Attempt] = set()
        self._alone: Attempt | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_first_start: Callable[[], None] | None = None
        """Called once, when the first attempt has started."""

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether newcomers go back, because a suspect runs alone or waits to."""
        return self._alone is not None

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        return len(self._waiting) + (self._alone is not None and self._alone not in self._running)

    def running_attempts(self) -> list[Attempt]:
        """The attempts that run now."""
        return list(self._running)

    def accept(self, attempts: Sequence[Attempt]) -> None:
        """Take what has arrived: each is run or given back, and `answer` hears of it."""
        back: list[Done] = []
        for attempt in attempts:
            handler = self._handlers.get(attempt.assignment.task)
            if handler is None:
                back.append((attempt, returned(attempt.assignment, ReturnReason.UNKNOWN_FUNCTION)))
            elif self._draining:
                back.append((attempt, returned(attempt.assignment, ReturnReason.DRAIN)))
            elif self._alone is not None:
                back.append((attempt, returned(attempt.assignment, ReturnReason.BUSY)))
            else:
                attempt.handler = handler
                if attempt.assignment.isolation is Isolation.ALONE:
                    self._alone = attempt
                    back += self._give_back(ReturnReason.BUSY)
                else:
                    self._waiting.append(attempt)
        if back:
            self._answer(back)
        self._start()

    def finished(self, done: Sequence[Done]) -> None:
        """Told by the runtimes: these attempts have ended. Their slots are used again at once."""
        running = self._running
        for attempt, _ in done:
            running.discard(attempt)
            if attempt is self._alone:
                self._alone = None
        self._start()
        self._answer(done)
        if not running:
            self._idle.set()

    async def drain(self) -> None:
        """Give back what has not started, then wait for what runs, at most `drain_timeout` seconds."""
        self._draining = True
        back = self._give_back(ReturnReason.DRAIN)
        if self._alone is not None and self._alone not in self._running:
            back.append((self._alone, returned(self._alone.assignment, ReturnReason.DRAIN)))
            self._alone = None
        if back:
            self._answer(back)
        try:
            async with asyncio.timeout(self._drain_timeout):
                await self._idle.wait()
        except TimeoutError:
            for attempt in self._running:
                assignment = attempt.assignment
                _log.warning(
                    "a task did not end in time, another worker will run it again",
                    extra={"task_id": assignment.id, "task": assignment.task, "attempt": assignment.attempt},
                )

    async def start(self) -> None:
        """Start the runtimes."""
        for runtime in (self._children, self._coroutines, self._threads):
            await runtime.start()

    async def stop(self) -> None:
        """Abandon what runs."""
        self._draining = True
        if self._announcing is not None:
            self._announcing.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for runtime in (self._coroutines, self._threads, self._children):
            await runtime.stop()

    def _start(self) -> None:
        """Fill the free slots."""
        if self._alone is not None:
            self._start_alone(self._alone)
            return
        free = self._slots - len(self._running)
        if free > 0 and self._waiting:
            self._start_many([self._waiting.popleft() for _ in range(min(free, len(self._waiting)))])
        if self._waiting and self._timer is None:
            self._watch(self._waiting[0].arrived + self._patience)

    def _start_alone(self, attempt: Attempt) -> None:
        if attempt in self._running or self._announcing is not None:
            return
        if self._running:
            if self._timer is None:
                self._watch(attempt.arrived + ALONE_PATIENCE)
            return
        self._announcing = asyncio.get_running_loop().create_task(self._announce_and_start(attempt))

    async def _announce_and_start(self, attempt: Attempt) -> None:
        # If it takes this worker down at once, the scheduler has to know that it was running, and nothing else.
        attempt.started = asyncio.get_running_loop().time()
        try:
            await self._announce()
        except Exception:  # noqa: BLE001 - whatever it is, the worker must not stay closed
            _log.exception("a suspect could not be announced", extra={"task_id": attempt.assignment.id})
        finally:
            self._announcing = None
        if attempt is self._alone:
            self._start_many([attempt])

    def _start_many(self, attempts: Sequence[Attempt]) -> None:
        now = asyncio.get_running_loop().time()
        coroutines: list[Attempt] = []
        threads: list[Attempt] = []
        children: list[Attempt] = []
        waits: dict[str, list[float]] = {}
        for attempt in attempts:
            attempt.started = now
            waits.setdefault(attempt.bundle.queue, []).append(now - attempt.arrived)
            if attempt.assignment.isolation is not Isolation.NONE:
                children.append(attempt)
            elif attempt.handler.is_coroutine:
                coroutines.append(attempt)
            else:
                threads.append(attempt)
        self._running.update(attempts)
        self._idle.clear()
        suspects: dict[str, int] = {}
        for attempt in children:
            suspects[attempt.bundle.queue] = suspects.get(attempt.bundle.queue, 0) + 1
        self._telemetry.emit(Started(waits, suspects))
        for runtime, batch in ((self._coroutines, coroutines), (self._threads, threads), (self._children, children)):
            if batch:
                runtime.run(batch)
        if self.on_first_start is not None:
            callback, self.on_first_start = self.on_first_start, None
            callback()

    def _watch(self, when: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(when, self._overdue)

    def _overdue(self) -> None:
        """Give back those whose patience is over."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        back: list[Done] = []
        alone = self._alone
        if alone is not None and alone not in self._running and now >= alone.arrived + ALONE_PATIENCE:
            self._alone = None
            back.append((alone, returned(alone.assignment, ReturnReason.BUSY)))
        while self._waiting and now >= self._waiting[0].arrived + self._patience:
            attempt = self._waiting.popleft()
            back.append((attempt, returned(attempt.assignment, ReturnReason.BUSY)))
        if back:
            self._answer(back)
        self._start()

    def _give_back(self, reason: ReturnReason) -> list[Done]:
        """Empty the waiting line."""
        back = [(attempt, returned(attempt.assignment, reason)) for attempt in self._waiting]
        self._waiting.clear()
        return back

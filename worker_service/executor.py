"""Slots: which attempts run now, and what happens to those that cannot.

In order of arrival, express ones first, while there are free slots. What has not started `patience` seconds after it
arrived goes back (`returned`, busy), so that no task waits here while another worker idles. Those for processes, of
which there may be fewer than slots, stand in a line of their own and wait longer. Suspects run in a process of their
own. One that is to run `alone` closes the worker: newcomers go back, what runs is finished, then it runs by itself, so
that if it takes the whole worker with it no other task is blamed.

What is cancelled or over its hard timeout is ended, and answered as that, however it ends. What does not end is given
up (see `endings`). Each one holds a thread or a coroutine for as long as it likes, so when more than `max_given_up` do,
the worker is worn out: only its end gives back what they hold.

Everything here happens in the main event loop; only batches cross to the runtimes' threads and back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from common.options import policy_of
from common.telemetry import Telemetry
from common.wire import Isolation, ReturnReason
from worker_service.attempts import Attempt
from worker_service.cancellations import Cancellations
from worker_service.deadlines import Deadlines
from worker_service.endings import Endings
from worker_service.events import GivenUp, Started
from worker_service.handlers import Handler
from worker_service.line import Line
from worker_service.results import returned
from worker_service.runtimes import Done, Runtime

ALONE_PATIENCE: Final = 60.0
"""Seconds that an `alone` attempt waits for the others to finish before another worker may have it."""
PROCESS_PATIENCE: Final = 20
"""How much longer, as a factor, an attempt waits for a process than another does for a slot: the scheduler counts
slots, so there may be many more of them than processes, and sending each back ten times a second helps nobody."""

_log = logging.getLogger(__name__)


class Executor:
    """Runs attempts in slots.

    Args:
        handlers: the task functions, by name.
        coroutines, threads, processes, children: the runtimes.
        answer: takes the outcomes.
        announce: sends a beat and waits for its confirm.
        look: notices a pause of this worker; called before anything is started, and may `give_back` meanwhile.
        slots: how many attempts run at a time.
        process_slots: how many of them in processes.
        patience: seconds that an attempt waits for a slot.
        grace: seconds that an attempt has to end after its hard timeout before it is given up.
        max_given_up: how many that were given up may go on.
        worn_out: told when more do.
        drain_timeout: seconds that running attempts have to finish on `drain`.
        telemetry: where `Started` goes.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        coroutines: Runtime,
        threads: Runtime,
        processes: Runtime,
        children: Runtime,
        answer: Callable[[Sequence[Done]], None],
        announce: Callable[[], Awaitable[None]],
        look: Callable[[], None],
        slots: int,
        process_slots: int,
        patience: float,
        grace: float,
        max_given_up: int,
        worn_out: Callable[[], None],
        drain_timeout: float,
        telemetry: Telemetry,
    ) -> None:
        self._handlers = handlers
        self._coroutines = coroutines
        self._threads = threads
        self._processes = processes
        self._children = children
        self._answer = answer
        self._announce = announce
        self._look = look
        self._announcing: asyncio.Task[None] | None = None
        self._slots = slots
        self._process_slots = process_slots
        self._drain_timeout = drain_timeout
        self._telemetry = telemetry
        self._line = Line(patience)
        self._process_line = Line(patience * PROCESS_PATIENCE)
        self._running: set[Attempt] = set()
        self._in_processes: set[Attempt] = set()
        self._endings = Endings()
        self._max_given_up = max_given_up
        self._worn_out = worn_out
        self._cancellations = Cancellations()
        self._deadlines = Deadlines(interrupt=self._interrupt, end=self._end, give_up=self._give_up, grace=grace)
        self._alone: Attempt | None = None
        self._timer: asyncio.Handle | None = None
        self._look_at = 0.0
        self._draining = False
        self._paused = False
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
    def paused(self) -> bool:
        """Whether everything that comes goes back, because an operator has said so."""
        return self._paused

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        alone = self._alone is not None and self._alone not in self._running
        return len(self._line) + len(self._process_line) + alone

    @property
    def given_up(self) -> int:
        """How many attempts go on that were given up."""
        return self._endings.given_up

    def next_deadline(self) -> float | None:
        """Seconds until the next timeout of a running attempt; None without any."""
        return self._deadlines.next_in()

    def running_attempts(self) -> list[Attempt]:
        """The attempts that run now."""
        return list(self._running)

    def running_by_runtime(self) -> dict[Runtime, list[Attempt]]:
        """The same, by what runs them."""
        return self._by_runtime(self._running)

    def given_up_by_runtime(self) -> dict[Runtime, list[Attempt]]:
        """The attempts that were given up and have not ended, by what runs them."""
        return self._by_runtime(self._endings.going_on())

    def resize(self, slots: int) -> None:
        """Run this many attempts at a time from now on. What runs is left alone, also when it is more."""
        self._slots = slots
        self._start()

    def pause(self) -> None:
        """Give back what has not started, and what comes from now on."""
        self._paused = True
        self._return_all(ReturnReason.DRAIN)

    def give_back(self, reason: ReturnReason) -> None:
        """Give back what has not started; what comes from now on is run."""
        self._return_all(reason)

    def resume(self) -> None:
        """Run again what comes."""
        self._paused = False

    def accept(self, attempts: Sequence[Attempt]) -> None:
        """Take what has arrived: each is run or given back, and `answer` hears of it."""
        back: list[Done] = []
        for attempt in attempts:
            handler = self._handlers.get(attempt.assignment.task)
            if handler is None:
                back.append((attempt, returned(attempt.assignment, ReturnReason.UNKNOWN_FUNCTION)))
            elif self._draining or self._paused:
                back.append((attempt, returned(attempt.assignment, ReturnReason.DRAIN)))
            elif self._cancellations and attempt.assignment.lease in self._cancellations:
                back.append((attempt, returned(attempt.assignment, ReturnReason.CANCELLED)))
            elif self._alone is not None:
                back.append((attempt, returned(attempt.assignment, ReturnReason.BUSY)))
            else:
                attempt.handler = handler
                if attempt.assignment.isolation is Isolation.ALONE:
                    self._alone = attempt
                    back += self._give_back(ReturnReason.BUSY)
                elif handler.in_process and attempt.assignment.isolation is Isolation.NONE:
                    self._process_line.add(attempt)
                else:
                    self._line.add(attempt)
        if back:
            self._answer(back)
        self._start()

    def finished(self, done: Sequence[Done]) -> None:
        """Told by the runtimes: these attempts have ended. Their slots are used again at once."""
        self._ended(self._endings.settled(done))

    def _ended(self, done: Sequence[Done]) -> None:
        running = self._running
        alone = self._alone
        for attempt, _ in done:
            running.discard(attempt)
            if attempt.policy is not None:
                self._deadlines.forget(attempt)
            if attempt is alone:
                self._alone = None
        if self._in_processes:
            self._in_processes.difference_update([attempt for attempt, _ in done])
        self._start()
        if done:
            self._answer(done)
        if not running:
            self._idle.set()

    def cancel(self, leases: Collection[str]) -> None:
        """End these where they run, give them back where they wait, and do not start them when they come later."""
        wanted = frozenset(leases)
        self._cancellations.add(leases)
        dropped = self._line.take_leases(wanted) + self._process_line.take_leases(wanted)
        alone = self._alone
        if alone is not None and alone not in self._running and alone.assignment.lease in wanted:
            self._alone = None
            dropped.append(alone)
        if dropped:
            self._answer([(each, returned(each.assignment, ReturnReason.CANCELLED)) for each in dropped])
        for attempt in self._running:
            if attempt.assignment.lease in wanted and self._endings.cancelled(attempt):
                self._runtime_of(attempt).cancel(attempt)
        self._start()

    async def drain(self) -> None:
        """Give back what has not started, then wait for what runs, at most `drain_timeout` seconds."""
        self._draining = True
        self._return_all(ReturnReason.DRAIN)
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
        for runtime in (self._children, self._processes, self._coroutines, self._threads):
            await runtime.start()

    async def stop(self) -> None:
        """Abandon what runs."""
        self._draining = True
        self._deadlines.stop()
        if self._announcing is not None:
            self._announcing.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for runtime in (self._coroutines, self._threads, self._processes, self._children):
            await runtime.stop()

    def _start(self) -> None:
        """Fill the free slots."""
        self._look()
        if self._alone is not None:
            self._start_alone(self._alone)
            return
        if self._process_line and not (self._line and self._line.turn < self._process_line.turn):
            self._start_in_processes()
        free = self._slots - len(self._running)
        if free > 0 and self._line:
            self._start_many(self._line.take(free))
        if self._process_line:
            self._start_in_processes()
        if self._line or self._process_line:
            self._watch(min(line.overdue_at for line in (self._line, self._process_line) if line))

    def _start_in_processes(self) -> None:
        free = min(self._slots - len(self._running), self._process_slots - len(self._in_processes))
        if free > 0:
            self._start_many(self._process_line.take(free))

    def _start_alone(self, attempt: Attempt) -> None:
        if attempt in self._running or self._announcing is not None:
            return
        if self._running:
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
        self._look()
        if attempt is self._alone:
            self._start_many([attempt])
        else:
            self._start()

    def _start_many(self, attempts: Sequence[Attempt]) -> None:
        now = asyncio.get_running_loop().time()
        batches: dict[Runtime, list[Attempt]] = {}
        waits: dict[str, list[float]] = {}
        suspects: dict[str, int] = {}
        expired: list[Attempt] = []
        for attempt in attempts:
            assignment = attempt.assignment
            if assignment.starts_within and now - attempt.arrived > assignment.starts_within:
                expired.append(attempt)
                continue
            attempt.started = now
            queue = attempt.bundle.queue
            waits.setdefault(queue, []).append(now - attempt.arrived)
            runtime = self._runtime_of(attempt)
            batches.setdefault(runtime, []).append(attempt)
            if runtime is self._children:
                suspects[queue] = suspects.get(queue, 0) + 1
            elif attempt.handler.in_process:
                self._in_processes.add(attempt)
            if attempt.handler.timed or assignment.policy is not None:
                attempt.policy = policy_of(assignment.policy, attempt.handler.policy)
                self._deadlines.watch(attempt)
        if expired:
            self._not_started(expired)
        if batches:
            self._idle.clear()
            self._telemetry.emit(Started(waits, suspects))
        for runtime, batch in batches.items():
            self._running.update(batch)
            runtime.run(batch)
        if self.on_first_start is not None:
            callback, self.on_first_start = self.on_first_start, None
            callback()

    def _runtime_of(self, attempt: Attempt) -> Runtime:
        # In one process for users' tests there are no others: then the function itself decides.
        if attempt.assignment.isolation is not Isolation.NONE and self._children is not self._threads:
            return self._children
        if attempt.handler.in_process and self._processes is not self._threads:
            return self._processes
        return self._coroutines if attempt.handler.is_coroutine else self._threads

    def _not_started(self, expired: Sequence[Attempt]) -> None:
        """Their time was over: give them back, and use their slots."""
        if self._alone in expired:
            self._alone = None
        self._answer([(each, returned(each.assignment, ReturnReason.EXPIRED)) for each in expired])
        asyncio.get_running_loop().call_soon(self._start)

    def _watch(self, when: float) -> None:
        """Look at `when` for those whose patience is over, if no look comes before."""
        if self._timer is not None:
            if self._look_at <= when:
                return
            self._timer.cancel()
        self._look_at = when  # kept here: what is due at once has no `when()` in uvloop
        self._timer = asyncio.get_running_loop().call_at(when, self._overdue)

    def _overdue(self) -> None:
        """Give back those whose patience is over."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        overdue = self._line.take_overdue(now) + self._process_line.take_overdue(now)
        alone = self._alone
        if alone is not None and alone not in self._running and now >= alone.arrived + ALONE_PATIENCE:
            self._alone = None
            overdue.append(alone)
        if overdue:
            self._answer([(each, returned(each.assignment, ReturnReason.BUSY)) for each in overdue])
        self._start()

    def _return_all(self, reason: ReturnReason) -> None:
        """Give back whatever has not started."""
        back = self._give_back(reason)
        if self._alone is not None and self._alone not in self._running:
            back.append((self._alone, returned(self._alone.assignment, reason)))
            self._alone = None
        if back:
            self._answer(back)

    def _by_runtime(self, attempts: Iterable[Attempt]) -> dict[Runtime, list[Attempt]]:
        found: dict[Runtime, list[Attempt]] = {}
        for attempt in attempts:
            found.setdefault(self._runtime_of(attempt), []).append(attempt)
        return found

    def _give_back(self, reason: ReturnReason) -> list[Done]:
        """Empty the waiting lines."""
        waiting = self._line.take_all() + self._process_line.take_all()
        return [(attempt, returned(attempt.assignment, reason)) for attempt in waiting]

    def _interrupt(self, attempt: Attempt) -> None:
        self._runtime_of(attempt).interrupt(attempt)

    def _end(self, attempt: Attempt) -> None:
        self._endings.timed_out(attempt)
        self._runtime_of(attempt).end(attempt)

    def _give_up(self, attempt: Attempt) -> None:
        outcome = self._endings.give_up(attempt)
        assignment = attempt.assignment
        _log.error(
            "a task function does not end after its hard timeout, it is given up and goes on without a slot",
            extra={"task_id": assignment.id, "task": assignment.task, "attempt": assignment.attempt},
        )
        self._telemetry.emit(GivenUp(attempt.bundle.queue, assignment.task))
        self._runtime_of(attempt).abandon(attempt)
        self._ended([(attempt, outcome)])
        if self._endings.given_up > self._max_given_up:
            self._worn_out()

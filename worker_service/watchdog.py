"""Names the tasks that run far beyond their function's usual time, with the place where they are.

Usual is the 95th percentile of the last 100 runs of the function that succeeded in this worker. A task is named when it
has run `factor` times that, and `after` seconds at least; and again at each doubling of its age. Of a function that has
not succeeded once here nothing is usual: then `factor` times `after` counts.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from common.background import Periodic, Report
from common.telemetry import Telemetry
from worker_service.attempts import Attempt
from worker_service.events import Completed, Slow

EVERY: Final = 1.0
"""Seconds between two looks at most."""
MOST: Final = 10
"""Tasks that are named in one look; the others have their turn in the next ones."""
RUNS: Final = 100

_log = logging.getLogger(__name__)


class UsualTimes:
    """How long the functions usually run. There are as many as the worker has registered."""

    def __init__(self) -> None:
        self._runs: dict[str, deque[float]] = {}

    def ran(self, task: str, seconds: Sequence[float]) -> None:
        """Runs of a function have ended."""
        runs = self._runs.get(task)
        if runs is None:
            runs = self._runs[task] = deque(maxlen=RUNS)
        runs.extend(seconds)

    def usual(self, task: str) -> float | None:
        """The 95th percentile, seconds; None when none has ended.

        Example:
            >>> times = UsualTimes()
            >>> times.ran("f", [float(number) for number in range(1, 101)])
            >>> times.usual("f"), times.usual("g")
            (95.0, None)
        """
        runs = self._runs.get(task)
        return sorted(runs)[math.ceil(0.95 * len(runs)) - 1] if runs else None


class Watchdog:
    """Looks about once a second at what runs.

    Args:
        running: what runs now.
        stacks: reads where attempts are.
        factor: how much longer than usual is far beyond it.
        after: seconds that it is at least.
        telemetry: tells of runs that have ended (`Completed`), and is told of those that do not (`Slow`).
        report: told of a crash.
    """

    def __init__(
        self,
        running: Callable[[], Iterable[Attempt]],
        stacks: Callable[[Iterable[Attempt]], Awaitable[dict[Attempt, list[str]]]],
        *,
        factor: float,
        after: float,
        telemetry: Telemetry,
        report: Report | None = None,
    ) -> None:
        self._running = running
        self._stacks = stacks
        self._factor = factor
        self._after = after
        self._telemetry = telemetry
        self._usual = UsualTimes()
        self._next: dict[Attempt, float] = {}
        """At which age an attempt that was named is named again."""
        telemetry.on(Completed, self._completed)
        self._watch = Periodic("watchdog", min(EVERY, after / 4), self._look, report)

    async def start(self) -> None:
        """Start watching."""
        self._watch.start()

    async def drain(self) -> None:
        """Nothing: what hangs in a drain is of interest too."""

    async def stop(self) -> None:
        """Stop watching."""
        await self._watch.stop()

    def limit(self, task: str) -> float:
        """The age from which on a task of this function is named, seconds."""
        usual = self._usual.usual(task)
        return self._factor * self._after if usual is None else max(self._after, self._factor * usual)

    def _completed(self, event: Completed) -> None:
        if event.status == "succeeded":
            self._usual.ran(event.task, event.run_seconds)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        running = [attempt for attempt in self._running() if attempt.started]
        self._next = {attempt: self._next[attempt] for attempt in running if attempt in self._next}
        old = [attempt for attempt in running if now - attempt.started >= self._after]
        limits = {task: self.limit(task) for task in {attempt.assignment.task for attempt in old}}
        slow = [a for a in old if now - a.started >= self._next.get(a, limits[a.assignment.task])][:MOST]
        if not slow:
            return
        stacks = await self._stacks(slow)
        for attempt in slow:
            if attempt not in self._next:
                self._telemetry.emit(Slow(attempt.bundle.queue, attempt.assignment.task))
            self._next[attempt] = 2 * (now - attempt.started)
            self._name(attempt, now - attempt.started, stacks.get(attempt, []))

    def _name(self, attempt: Attempt, age: float, stack: Sequence[str]) -> None:
        of = attempt.assignment
        usual = self._usual.usual(of.task)
        fields = {"task_id": of.id, "task": of.task, "attempt": of.attempt, "seconds": round(age, 1)}
        fields["usual_seconds"] = None if usual is None else round(usual, 3)
        _log.warning("a task runs far beyond its usual time", extra={**fields, "stack": "\n".join(stack)})

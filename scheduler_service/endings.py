"""Endings: what follows when tasks end without a reply, because they expired or were cancelled.

The store knows already. What is left: the numbers of what waits, metrics, and those who wait for the results. Telling
happens in the background, so that a slow client holds up neither the clock nor the dispatch.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.states import State
from common.telemetry import Telemetry
from common.wire import TaskResult
from scheduler_service import events
from scheduler_service.fleet.lanes import Lane, lane_of
from scheduler_service.operations import Ended, results_to_tell


class Endings:
    """Follows up on tasks that have ended without a reply.

    Args:
        queued: told how many queued tasks of which lane are fewer, as a negative number.
        scheduled: the same for scheduled tasks, by queue.
        tell: tells results by reply queue.
        telemetry: where `Ended` goes.
    """

    def __init__(
        self,
        *,
        queued: Callable[[Lane, int], None],
        scheduled: Callable[[str, int], None],
        tell: Callable[[Mapping[str, Sequence[TaskResult]]], Awaitable[None]],
        telemetry: Telemetry,
    ) -> None:
        self._queued = queued
        self._scheduled = scheduled
        self._tell = tell
        self._telemetry = telemetry
        self._telling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing to start."""

    async def drain(self) -> None:
        """Wait until all are told."""
        if self._telling:
            await asyncio.wait(self._telling)

    async def stop(self) -> None:
        """Tell no more."""
        for task in self._telling:
            task.cancel()
        if self._telling:
            await asyncio.wait(self._telling)

    def settle(self, ended: Sequence[Ended]) -> None:
        """Take those that waited off the numbers, and announce all."""
        queued = Counter(lane_of(each.stored) for each in ended if each.stored.task.state is State.QUEUED)
        for lane, count in queued.items():
            self._queued(lane, -count)
        scheduled = Counter(each.stored.queue for each in ended if each.stored.task.state is State.SCHEDULED)
        for queue, count in scheduled.items():
            self._scheduled(queue, -count)
        self.announce(ended)

    def announce(self, ended: Sequence[Ended]) -> None:
        """Count them, and tell those who wait for them."""
        if not ended:
            return
        now = time.time()
        totals: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        for each in ended:
            stored = each.stored
            totals[stored.queue, stored.name, each.task.state.value].append(max(0.0, now - stored.submitted_at))
        finished = [events.Finished(*which, [0.0] * len(seconds), seconds) for which, seconds in totals.items()]
        self._telemetry.emit(events.Ended(finished))
        told: dict[str, list[TaskResult]] = defaultdict(list)
        for each in ended:
            results_to_tell(each.stored, each.task, each.aliases, lambda to, result: told[to].append(result))
        if told:
            task = asyncio.create_task(self._tell_all(told), name="tell what has ended")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell_all(self, told: Mapping[str, Sequence[TaskResult]]) -> None:
        await self._tell(told)

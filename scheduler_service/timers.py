"""Timers: queues scheduled tasks when they are due, and ends waiting ones when their time is over.

All of them wait in the store; here are only their numbers and the next moment. The clock may be set at any time, so
the store is looked at again at least each second, by the clock as it is then::

    look (queue what is due, end what is over) -> sleep until the next moment, a second at most -> look ...
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from common.background import Background, Report
from common.clocks import wall
from common.errors import StoreError
from common.failpoints import reached
from common.states import Rules, State
from common.telemetry import Telemetry
from scheduler_service import operations
from scheduler_service.events import Ripened
from scheduler_service.fleet.lanes import Lane, due, lane_of
from scheduler_service.operations import Ended
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

BATCH: Final = 1000
LONGEST_SLEEP: Final = 1.0
"""Seconds after which the clock is looked at again: it may have been set."""
REST: Final = 0.01
"""Seconds between two looks at least, so that what is due at about the same time moves together."""


class Timers:
    """Wakes when the next waiting task is due or over.

    Args:
        store: where tasks are.
        rules: the limits of the transition function.
        queued: told how many tasks of which lane were queued, the oldest of them due at which moment.
        ended: given what has expired.
        doubt: called when a transaction may or may not have been committed.
        telemetry: where `Ripened` goes.
        report: told when the loop dies.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        *,
        queued: Callable[[Lane, int, float], None],
        ended: Callable[[Sequence[Ended]], None],
        doubt: Callable[[], None],
        telemetry: Telemetry,
        report: Report,
        clock: Callable[[], float] = wall,
    ) -> None:
        self._store = store
        self._rules = rules
        self._queued = queued
        self._ended = ended
        self._doubt = doubt
        self._telemetry = telemetry
        self._clock = clock
        self._waiting: dict[str, int] = {}
        self._doubtful = False
        self._next = math.inf
        self._wake = asyncio.Event()
        self._loop = Background("timers", self._run, report)

    @property
    def waiting(self) -> Mapping[str, int]:
        """Scheduled tasks by queue, as far as known."""
        return self._waiting

    @property
    def next_moment(self) -> float | None:
        """When the next waiting task is due or over, seconds since the epoch; None without any."""
        return self._next if math.isfinite(self._next) else None

    async def start(self) -> None:
        """Count what is scheduled, and start the loop."""
        if self._loop.running:
            return
        self._waiting = await self._store.run(operations.count_scheduled)
        self._loop.start()

    async def drain(self) -> None:
        """Queue no more."""
        await self._loop.stop()

    async def stop(self) -> None:
        """Queue no more."""
        await self._loop.stop()

    def scheduled(self, queue: str, count: int) -> None:
        """`count` more tasks of `queue` are scheduled; fewer when it is negative."""
        left = self._waiting.get(queue, 0) + count
        if left > 0:
            self._waiting[queue] = left
        else:
            self._waiting.pop(queue, None)

    def moved(self, moved: Sequence[Moved]) -> None:
        """Tasks have been moved; what is scheduled of them waits for another queue."""
        scheduled = [each for each in moved if each.stored.task.state is State.SCHEDULED]
        for queue, count in Counter(each.stored.queue for each in scheduled).items():
            self.scheduled(queue, -count)
        for queue, count in Counter(each.queue for each in scheduled).items():
            self.scheduled(queue, count)

    def expect(self, moment: float) -> None:
        """A task is due or over at `moment`, seconds since the epoch; it may be the next."""
        if moment < self._next:
            self._next = moment
            self._wake.set()

    def recount(self) -> None:
        """A transaction may or may not have been committed: look in the store for what is scheduled."""
        self._doubtful = True
        self._next = -math.inf
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look()
            except StoreError as error:
                log.warning("timers wait for the store", extra={"reason": str(error)})
                self._doubt()
                self._next = math.inf
                self._wake.clear()
            await asyncio.sleep(REST)
            try:
                async with asyncio.timeout(min(LONGEST_SLEEP, max(0.0, self._next - self._clock()))):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Move what has to be moved, and find the next moment."""
        if self._doubtful:
            self._waiting = await self._store.run(operations.count_scheduled)
            self._doubtful = False
        # From here on `expect` may set an earlier moment, for what this look does not see.
        self._next = math.inf
        await reached("timers.before_commit")
        ripened = await self._store.run(operations.ripen, self._rules, BATCH, self._clock())
        await reached("timers.after_commit")
        for queue, count in Counter(stored.queue for stored in ripened.due).items():
            self.scheduled(queue, -count)
        by_lane: dict[Lane, list[float]] = {}
        for stored in ripened.due:
            by_lane.setdefault(lane_of(stored), []).append(due(stored))
        for lane, moments in by_lane.items():
            self._queued(lane, len(moments), min(moments))
        if ripened.due:
            now = self._clock()
            self._telemetry.emit(Ripened([max(0.0, now - (stored.task.due_at or now)) for stored in ripened.due]))
        if ripened.ended:
            self._ended(ripened.ended)
        if ripened.full:
            self._next = -math.inf
        elif ripened.next is not None:
            self._next = min(self._next, ripened.next)

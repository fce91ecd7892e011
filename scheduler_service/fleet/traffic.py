"""What came into and went out of each queue during the last minute, and how long it ran.

Kept in slots of a second, so the memory for a queue is fixed, and the number of queues is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from common.clocks import steady
from common.telemetry import Telemetry
from scheduler_service import events

SPAN: Final = 60
"""Seconds that are looked back at."""
LATELY: Final = 10
"""Seconds that count as just now."""
QUEUES: Final = 10_000
"""Queues that are counted; more than may exist."""
UNKNOWN_RUN: Final = 0.1
"""Seconds that a task takes as long as none was seen."""


class Flow(Struct, frozen=True):
    """The traffic of one queue.

    Attributes:
        accepted, finished: tasks a second, over the last minute.
        finished_lately: the same over the last ten seconds.
        run: mean run time of those that ran, seconds.
    """

    accepted: float = 0.0
    finished: float = 0.0
    finished_lately: float = 0.0
    run: float = UNKNOWN_RUN


class _Second(Struct):
    at: int = -1
    accepted: int = 0
    finished: int = 0
    ran: int = 0
    seconds: float = 0.0


class _Meter:
    __slots__ = ("_slots", "run", "since")

    def __init__(self, since: int) -> None:
        self._slots = [_Second() for _ in range(SPAN)]
        self.since = since
        self.run = UNKNOWN_RUN

    def second(self, at: int) -> _Second:
        slot = self._slots[at % SPAN]
        if slot.at != at:
            self._slots[at % SPAN] = slot = _Second(at)
        return slot

    def last(self, now: int, span: int) -> list[_Second]:
        return [slot for slot in self._slots if now - span <= slot.at < now]


class Traffic:
    """The traffic of all queues, fed by telemetry.

    Args:
        telemetry: where `Submitted`, `Replied` and `Ended` come from.
        clock: monotonic seconds.
    """

    def __init__(self, telemetry: Telemetry, clock: Callable[[], float] = steady) -> None:
        self._clock = clock
        self._meters: dict[str, _Meter] = {}
        telemetry.on(events.Submitted, self._submitted)
        telemetry.on(events.Replied, self._replied)
        telemetry.on(events.Ended, self._ended)

    def of(self, queue: str) -> Flow:
        """The traffic of `queue`; of a queue that is younger than a minute over its life so far."""
        meter = self._meters.get(queue)
        if meter is None:
            return Flow()
        now = int(self._clock())
        seconds = meter.last(now, SPAN)
        ran = sum(second.ran for second in seconds)
        if ran:
            meter.run = sum(second.seconds for second in seconds) / ran
        age = max(1, now - meter.since)
        return Flow(
            sum(second.accepted for second in seconds) / min(SPAN, age),
            sum(second.finished for second in seconds) / min(SPAN, age),
            sum(second.finished for second in meter.last(now, LATELY)) / min(LATELY, age),
            meter.run,
        )

    def queues(self) -> list[str]:
        """The queues with traffic since the start."""
        return list(self._meters)

    def _meter(self, queue: str, now: int) -> _Meter | None:
        meter = self._meters.get(queue)
        if meter is None and len(self._meters) < QUEUES:
            meter = self._meters[queue] = _Meter(now)
        return meter

    def _submitted(self, event: events.Submitted) -> None:
        now = int(self._clock())
        for queue, count in event.by_queue.items():
            if (meter := self._meter(queue, now)) is not None:
                meter.second(now).accepted += count

    def _replied(self, event: events.Replied) -> None:
        now = int(self._clock())
        for finished in event.finished:
            if (meter := self._meter(finished.queue, now)) is not None:
                second = meter.second(now)
                second.finished += len(finished.run_seconds)
                second.ran += len(finished.run_seconds)
                second.seconds += sum(finished.run_seconds)

    def _ended(self, event: events.Ended) -> None:
        now = int(self._clock())
        for finished in event.finished:
            if (meter := self._meter(finished.queue, now)) is not None:
                meter.second(now).finished += len(finished.total_seconds)

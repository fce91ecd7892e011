"""One limit: an exact rate in a window that slides, and a number of tasks at a time."""

from __future__ import annotations

from collections import deque
from typing import Final

from common.quotas import Quota, Rate

EXACT: Final = 1000
"""Up to this count of a rate each dispatch is remembered by itself; above, hundredths of the span are."""
GRAINS: Final = 100


class SlidingWindow:
    """What went in the last `rate.per` seconds: never more than `rate.count`.

    Of large counts not each moment is kept, but the last moment of each hundredth of the span: what went a little
    earlier counts a little longer, so the limit holds all the same, and up to a hundredth of the rate is given away.

    Args:
        rate: the limit.
    """

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._grain = rate.per / GRAINS if rate.count > EXACT else 0.0
        self._entries: deque[tuple[float, float, int]] = deque()
        self._sum = 0

    def record(self, count: int, at: float) -> None:
        """`count` went at `at`, monotonic seconds; never earlier than what was recorded before."""
        entries = self._entries
        if entries:
            begun, last, sum_ = entries[-1]
            at = max(at, last)
            if at - begun <= self._grain:
                entries[-1] = (begun, at, sum_ + count)
                self._sum += count
                return
        entries.append((at, at, count))
        self._sum += count

    def used(self, now: float) -> int:
        """How many went in the span that ends at `now`."""
        entries = self._entries
        while entries and entries[0][1] + self.rate.per <= now:
            self._sum -= entries.popleft()[2]
        return self._sum

    def next_free(self, taken: int = 0) -> float:
        """When one more may go if `taken` are about to, monotonic seconds; the past when one may go now."""
        over = self._sum + taken + 1 - self.rate.count
        if over <= 0:
            return float("-inf")
        for _, last, count in self._entries:
            over -= count
            if over <= 0:
                return last + self.rate.per
        return float("inf")

    def changed(self, rate: Rate) -> SlidingWindow:
        """A window for another rate, with the same past as far as it is known."""
        window = SlidingWindow(rate)
        for _, last, count in self._entries:
            window.record(count, last)
        return window

    def __len__(self) -> int:
        return len(self._entries)


class Limit:
    """What one queue, task function or key may have, and what it has.

    Args:
        quota: what it may have.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.out = 0
        """Dispatched and unfinished, or about to be."""
        self.pending = 0
        """Of these, how many are about to be dispatched: their moment is not known yet."""
        self._window = SlidingWindow(quota.rate) if quota.rate is not None else None

    def set(self, quota: Quota) -> None:
        """Let it have something else from now on."""
        if quota.rate is None:
            self._window = None
        elif self._window is None:
            self._window = SlidingWindow(quota.rate)
        elif quota.rate != self._window.rate:
            self._window = self._window.changed(quota.rate)
        self.quota = quota

    def record(self, count: int, at: float) -> None:
        """`count` were dispatched at `at`, monotonic seconds."""
        if self._window is not None:
            self._window.record(count, at)

    def room(self, now: float) -> int | None:
        """How many more may go at `now`; None: as many as can."""
        quota = self.quota
        if quota.paused:
            return 0
        room = None
        if quota.concurrency is not None:
            room = max(0, quota.concurrency - self.out)
        if self._window is not None:
            left = max(0, self._window.rate.count - self._window.used(now) - self.pending)
            room = left if room is None or left < room else room
        return room

    def next_free(self, now: float) -> float | None:
        """When the rate lets one more go, monotonic seconds; None when time alone changes nothing."""
        if self._window is None or self.quota.paused:
            return None
        self._window.used(now)
        moment = self._window.next_free(self.pending)
        return moment if now < moment < float("inf") else None

    @property
    def remembered(self) -> int:
        """How many moments are kept."""
        return len(self._window) if self._window is not None else 0

"""How fast tasks complete, how long they run, and how long the path takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

SLOT: Final = 0.1
"""Seconds that one count of completions covers."""
SLOTS: Final = 5
"""How many counts are remembered; the best of them is the rate, so that a hiccup does not close the window."""
UNKNOWN_RUN: Final = 0.1
"""Seconds that a function is expected to run before anything is known of it."""
SAMPLES: Final = 100
PATH_MEMORY: Final = 60.0
"""Seconds for which the least path time is remembered; the last one is kept for longer, until there is another."""
PROBE: Final = 1.0
"""Seconds for which a window is kept without a lead at most, to see how long the path is by itself."""


class CompletionRate:
    """Completions of one queue, counted in slots of 100 ms."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=SLOTS)

    def add(self, count: int, now: float) -> None:
        """`count` tasks completed at `now`."""
        slot = int(now / SLOT)
        if self._counts and self._counts[-1][0] == slot:
            self._counts[-1] = (slot, self._counts[-1][1] + count)
        else:
            self._counts.append((slot, count))

    def per_slot(self, now: float) -> int:
        """Completions in the best of the last slots (100 ms each)."""
        oldest = int(now / SLOT) - SLOTS
        return max((count for slot, count in self._counts if slot > oldest), default=0)


class RunTimes:
    """The lower quartile of the last run times of one function.

    The lower quartile and not the mean, because a few slow runs must not make short tasks travel one by one.
    """

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._new = 0
        self._quartile = UNKNOWN_RUN

    def add(self, seconds: float) -> None:
        """One run took `seconds`."""
        self.extend((seconds,))

    def extend(self, runs: Sequence[float]) -> None:
        """These runs took so many seconds each."""
        self._samples.extend(runs)
        self._new += len(runs)

    @property
    def expected(self) -> float:
        """Seconds that the next run is expected to take; `UNKNOWN_RUN` when nothing is known."""
        if self._new and (self._new >= SAMPLES // 4 or len(self._samples) < SAMPLES // 4):
            ordered = sorted(self._samples)
            self._quartile = ordered[len(ordered) // 4]
            self._new = 0
        return self._quartile


class PathTime:
    """The least path time (dispatch to applied, less the run time) of the last minute.

    Only what waited behind nothing tells it: a task that waited in the broker for its turn took as long as the lead of
    its window, and a lead that grew to twice that would double each minute. Of a queue that is never at rest, nothing
    tells it. So its window has no lead once a minute until it is known (`probes`), as the congestion control BBR keeps
    its pipe empty for a moment (Cardwell et al., 2016); all queues at the same moment, for they may share workers.
    """

    def __init__(self) -> None:
        self._least: deque[tuple[float, float]] = deque()
        self._last = 0.0

    def add(self, seconds: float, now: float) -> None:
        """A task that had not to wait in the broker came back at `now` after a path of `seconds`."""
        while self._least and self._least[-1][1] >= seconds:
            self._least.pop()
        if not self._least or now - self._least[-1][0] >= 1.0:
            self._least.append((now, seconds))
        self._last = now
        self._forget(now)

    def least(self, now: float) -> float:
        """Seconds; 0 when nothing is known."""
        self._forget(now)
        return self._least[0][1] if self._least else 0.0

    def probes(self, now: float) -> bool:
        """Whether it is time to see how long the path is."""
        if not self._least or now - self._last < PATH_MEMORY / 2:
            return False
        return now % PATH_MEMORY < PROBE

    def _forget(self, now: float) -> None:
        while len(self._least) > 1 and now - self._least[0][0] > PATH_MEMORY:
            self._least.popleft()

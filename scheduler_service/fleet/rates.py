"""How fast tasks complete, how long they run, and how long the path takes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

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
"""Seconds for which windows are kept without a lead at most, to see how long the path is by itself.

Of queues that share workers six times the path, where that is longer: what is out has to be over first, and that takes
up to four times the path, because one of them may have out twice a lead of twice the path.
"""


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

    def per_second(self, now: float) -> float:
        """Completions in a second, on average over these slots."""
        oldest = int(now / SLOT) - SLOTS
        return sum(count for slot, count in self._counts if slot > oldest) / (SLOTS * SLOT)


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
    """The least path time (dispatch to applied, less the run time) of the last minute, as tasks of one queue tell it.

    Only what waited behind nothing tells it: a task that waited in the broker for its turn took as long as the lead of
    its window, and a lead that grew to twice that would double each minute.
    """

    def __init__(self) -> None:
        self._least: deque[tuple[float, float]] = deque()
        self.last = -math.inf
        """When the last task told it."""

    def add(self, seconds: float, now: float) -> None:
        """A task that had not to wait in the broker came back at `now` after a path of `seconds`."""
        while self._least and self._least[-1][1] >= seconds:
            self._least.pop()
        if not self._least or now - self._least[-1][0] >= 1.0:
            self._least.append((now, seconds))
        self.last = now
        self._forget(now)

    def least(self, now: float) -> tuple[float, float] | None:
        """When the least was seen, and its seconds; None when nothing is known."""
        self._forget(now)
        return self._least[0] if self._least else None

    def _forget(self, now: float) -> None:
        while len(self._least) > 1 and now - self._least[0][0] > PATH_MEMORY:
            self._least.popleft()


class Path(NamedTuple):
    """The path of queues that share workers.

    Attributes:
        seconds: how long it takes; 0 when nothing is known.
        probed: it is time to see how long it is.
    """

    seconds: float = 0.0
    probed: bool = False


def path_of(times: Iterable[PathTime], now: float, *, shared: bool = True) -> Path:
    """The path of queues that share workers, from what the tasks of each tell: they go the same way.

    It is the least of the last minute. What is older counts only while there is nothing newer, of any of them: so one
    slow task, such as the first one of a queue, is believed until another tells better, and not for ever.

    Of queues that are never at rest, nothing tells it. So their windows have no lead once a minute until it is known,
    as the congestion control BBR keeps its pipe empty for a moment (Cardwell et al., 2016). All of them at the same
    moment, those of which nothing was ever known too: while one has a lead, what the others send waits behind it.

    Args:
        times: of all of them.
        now: monotonic seconds.
        shared: whether it is more than one.
    """
    last, newest, least = -math.inf, (-math.inf, 0.0), math.inf
    for each in times:
        seen = each.least(now)
        if seen is not None:
            last, newest = max(last, each.last), max(newest, seen)
            if now - seen[0] <= PATH_MEMORY:
                least = min(least, seen[1])
    if last == -math.inf:
        return Path()
    seconds = newest[1] if least == math.inf else least
    lasts = min(max(PROBE, 6 * seconds), PATH_MEMORY / 2) if shared else PROBE
    return Path(seconds, now - last >= PATH_MEMORY / 2 and now % PATH_MEMORY < lasts)

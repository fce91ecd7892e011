"""What was learned from the tasks that completed: how fast they do, how long they run, how long the path takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from scheduler_service.fleet.rates import CompletionRate, Path, PathTime, RunTimes, path_of

FUNCTIONS: Final = 10_000
"""Functions whose run times are remembered; client-chosen names beyond that share one entry."""


class Pace:
    """How fast queues and functions are; nothing of it is known after a restart, and soon again."""

    def __init__(self) -> None:
        self._rates: dict[str, CompletionRate] = defaultdict(CompletionRate)
        self._paths: dict[str, PathTime] = defaultdict(PathTime)
        self._runs: dict[str, RunTimes] = {}
        self._names: dict[str, str] = {}

    def ran(self, queue: str, name: str, runs: Sequence[float], now: float) -> None:
        """Tasks have completed.

        Args:
            queue: their queue.
            name: their function.
            runs: seconds that each of them ran.
            now: monotonic seconds.
        """
        self._rates[queue].add(len(runs), now)
        self._times(name).extend(runs)
        self._names[queue] = name

    def travelled(self, queue: str, seconds: float, now: float) -> None:
        """A task of `queue` that had not to wait in the broker came back at `now` after a path of `seconds`."""
        self._paths[queue].add(seconds, now)

    def per_slot(self, queue: str, now: float) -> int:
        """Completions of `queue` in the best of the last slots (100 ms each)."""
        return self._rates[queue].per_slot(now)

    def per_second(self, queue: str, now: float) -> float:
        """Completions of `queue` in a second, on average over these slots."""
        return self._rates[queue].per_second(now)

    def expected_run(self, name: str) -> float:
        """Seconds that the function `name` is expected to run."""
        return self._times(name).expected

    def expected_in(self, queue: str) -> float:
        """Seconds that a task of `queue` is expected to run: as long as the function that was last seen there."""
        name = self._names.get(queue)
        return self._times(name).expected if name is not None else RunTimes().expected

    def path(self, queues: Collection[str], now: float) -> Path:
        """The path of `queues` at `now` (monotonic seconds): of all that share workers, which have it in common."""
        times = [self._paths[queue] for queue in queues if queue in self._paths]
        return path_of(times, now, shared=len(queues) > 1)

    def _times(self, name: str) -> RunTimes:
        times = self._runs.get(name)
        if times is None:
            if len(self._runs) >= FUNCTIONS:
                name = "other"
            times = self._runs.setdefault(name, RunTimes())
        return times

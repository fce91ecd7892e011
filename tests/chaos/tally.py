"""Reads the effect log while it grows."""

from collections import Counter
from pathlib import Path

import msgspec

from tests.chaos.workload import answer
from tests.support.effects import Effect


class Tally:
    """What the task functions have done so far.

    Args:
        path: the effect log; it need not exist yet.

    Attributes:
        starts: how often each key was started.
        started_at: when each of these starts was, seconds since the epoch.
        ends: how often each key came to an end that is final: its value, or a failure that is not to be retried.
        failures: how often each key raised what is retried; a start after it is not one too many.
        wrong: values that are not right, by key.
        last_end: when the last of these ends was, seconds since the epoch.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.starts: Counter[int] = Counter()
        self.started_at: dict[int, list[float]] = {}
        self.ends: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.wrong: dict[int, object] = {}
        self.last_end = 0.0

    def read(self) -> None:
        """Take in what is new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            self._take(msgspec.json.decode(line, type=Effect))

    def extra_runs(self, key: int) -> int:
        """How often a task was started beyond what its own failures asked for."""
        return max(0, self.starts[key] - 1 - self.failures[key])

    def _take(self, effect: Effect) -> None:
        key = effect.key
        if effect.what == "start":
            self.starts[key] += 1
            self.started_at.setdefault(key, []).append(effect.at)
        elif effect.what == "failed":
            self.failures[key] += 1
        else:
            self.ends[key] += 1
            self.last_end = max(self.last_end, effect.at)
            if effect.what == "end" and effect.value != answer(key):
                self.wrong[key] = effect.value

"""What the processes of a system cost: memory at its peak, and processor time."""

import contextlib
import threading
import time
from collections.abc import Mapping

import msgspec
import psutil

_INTERVAL = 0.1  # seconds between two looks at the memory


class Usage(msgspec.Struct):
    """One service with its child processes, over one measured part.

    Args:
        peak_mb: megabytes of resident memory at most, summed over its processes.
        cpu_seconds: processor time, user and system.
    """

    peak_mb: float
    cpu_seconds: float


class Spent(msgspec.Struct):
    """What was used in one measured part: by each service, and by everyone else.

    Args:
        services: by the service's name.
        strangers: share of all cores, 0 to 1, that went to processes of others: how far the figures can be trusted.
    """

    services: dict[str, Usage] = {}
    strangers: float = 0.0


class UsageMeter:
    """Watches process trees from `start()` to `stop()`, in a thread of its own.

    The trees are looked up once, in `start()`: the services are warm by then, and a search ten times a second would
    take processor time from what is measured.

    Args:
        roots: a process id by the name that its service has in the report.
    """

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._trees: dict[str, list[psutil.Process]] = {}
        self._peaks = dict.fromkeys(roots, 0.0)
        self._began: dict[str, float] = {}
        self._busy, self._started_at = 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)

    def start(self) -> None:
        """Note the processor times and begin to watch the memory."""
        self._trees = {name: _tree(pid) for name, pid in self._roots.items()}
        self._began = {name: _cpu_seconds(tree) for name, tree in self._trees.items()}
        self._busy, self._started_at = _busy_seconds(), time.monotonic()
        self._look()
        self._thread.start()

    def stop(self) -> Spent:
        """Return what has been used since `start()`."""
        self.cancel()
        self._look()
        services = {
            name: Usage(round(self._peaks[name], 1), round(_cpu_seconds(tree) - self._began[name], 3))
            for name, tree in self._trees.items()
        }
        foreign = _busy_seconds() - self._busy - sum(usage.cpu_seconds for usage in services.values())
        cores = (time.monotonic() - self._started_at) * (psutil.cpu_count() or 1)
        return Spent(services, round(min(1.0, max(0.0, foreign / cores)), 3))

    def cancel(self) -> None:
        """Stop watching; again does nothing."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            self._look()

    def _look(self) -> None:
        for name, tree in self._trees.items():
            self._peaks[name] = max(self._peaks[name], _resident_mb(tree))


def _busy_seconds() -> float:
    """Return the seconds since boot that all cores together have worked, for us, for others or for another guest."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _tree(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _resident_mb(tree: list[psutil.Process]) -> float:
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


def _cpu_seconds(tree: list[psutil.Process]) -> float:
    total = 0.0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total

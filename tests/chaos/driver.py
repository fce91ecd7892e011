"""Submits at an even pace, whatever happens meanwhile, and asks for some tasks to be cancelled."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from tests.chaos.systems import System, Unconfirmed
from tests.chaos.workload import Job

CHUNK = 10
_REST = 0.5  # seconds between two tries
_CANCEL_AFTER = 1.0  # seconds behind the confirm


class Driver:
    """The client's side of a run.

    Args:
        system: what is submitted to.

    Attributes:
        confirmed: the tasks that the system has taken responsibility for, by key.
        submitted_at: when each was first sent, seconds since the epoch.
        asked: the keys for which a cancel was asked, and not answered with another state.
        cancelled_at: when a cancel was answered with `cancelled`, seconds since the epoch, by key.
        repeats: how many submissions were made again, because nobody knew what had become of them.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self.confirmed: dict[int, Job] = {}
        self.submitted_at: dict[int, float] = {}
        self.asked: set[int] = set()
        self.cancelled_at: dict[int, float] = {}
        self.repeats = 0
        self._to_cancel: queue.SimpleQueue[tuple[float, Job] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit until confirmed, however often that takes."""
        for job in jobs:
            self.submitted_at.setdefault(job.key, time.time())
        while not self._tried(jobs):
            self.repeats += 1
            if self._stopping.wait(_REST):
                return
        for job in jobs:
            self.confirmed[job.key] = job
            if job.cancel:
                self._to_cancel.put((time.monotonic() + _CANCEL_AFTER, job))

    def start(self, jobs: Sequence[Job], seconds: float) -> None:
        """Begin to submit `jobs`, evenly over `seconds`."""
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._submit_all, jobs, seconds), name="submit", daemon=True),
            threading.Thread(target=self._guarded, args=(self._cancel_all,), name="cancel", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether it still submits or cancels."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout: float) -> None:
        """Return when all is submitted and all cancels are asked.

        Raises:
            AssertionError: not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        assert not self.busy, f"{len(self.confirmed)} tasks are confirmed"

    def stop(self) -> None:
        """Give up, if it goes on."""
        self._stopping.set()
        self._to_cancel.put(None)

    def _tried(self, jobs: Sequence[Job]) -> bool:
        try:
            self._system.submit(jobs)
        except Unconfirmed:
            return False
        return True

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # the thread's boundary: `join` raises it
            self._failure = error

    def _submit_all(self, jobs: Sequence[Job], seconds: float) -> None:
        began = time.monotonic()
        for at in range(0, len(jobs), CHUNK):
            if self._stopping.wait(max(0.0, began + seconds * at / len(jobs) - time.monotonic())):
                return
            self.submit(jobs[at : at + CHUNK])
        self._to_cancel.put(None)

    def _cancel_all(self) -> None:
        while (due := self._to_cancel.get()) is not None:
            at, job = due
            if self._stopping.wait(max(0.0, at - time.monotonic())):
                return
            state = self._system.cancel(job)
            if state in ("", "cancelled"):
                self.asked.add(job.key)
            if state == "cancelled":
                self.cancelled_at[job.key] = time.time()

"""Submitting from several threads: what a blocking client needs so that it does not idle while it awaits a confirm."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.bench.systems import Burst

T = TypeVar("T")


class SubmittingThreads:
    """Threads that stay from burst to burst, because the peers keep connections and reply queues for each thread.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count)

    def burst(self, n: int, submit: Callable[[int], list[T]], await_results: Callable[[list[T]], None]) -> Burst:
        """Let each thread submit its share and then await its own results.

        Args:
            n: tasks in all.
            submit: submits so many tasks, confirmed, and returns their handles.
            await_results: returns once every handle has its result; raises if one failed.
        """
        shares = [n // self._count + (index < n % self._count) for index in range(self._count)]
        start = threading.Barrier(self._count + 1)  # a thread takes one share: none can start before all are here
        accepted: list[float] = []

        def work(share: int) -> None:
            start.wait()
            handles = submit(share)
            accepted.append(time.perf_counter())
            await_results(handles)

        running = [self._pool.submit(work, share) for share in shares]
        start.wait()
        began = time.perf_counter()
        for future in running:
            future.result()
        return Burst(n, time.perf_counter() - began, max(accepted) - began)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

"""Submitting from several threads: what a blocking client needs so that it does not idle while it awaits a confirm."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tests.bench.systems import Burst

T = TypeVar("T")


def burst_in_threads(
    n: int, threads: int, submit: Callable[[int], list[T]], await_results: Callable[[list[T]], None]
) -> Burst:
    """Let each thread submit its share and then await its own results.

    Args:
        n: tasks in all.
        threads: how many threads share them.
        submit: submits so many tasks, confirmed, and returns their handles.
        await_results: returns once every handle has its result; raises if one failed.
    """
    shares = [n // threads + (index < n % threads) for index in range(threads)]
    start = threading.Barrier(threads + 1)
    accepted: list[float] = []

    def work(share: int) -> None:
        start.wait()
        handles = submit(share)
        accepted.append(time.perf_counter())
        await_results(handles)

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work, share) for share in shares]
        start.wait()
        began = time.perf_counter()
        for future in running:
            future.result()
        return Burst(n, time.perf_counter() - began, max(accepted) - began)

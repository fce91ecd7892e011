"""What is learned from the tasks that come back."""

from __future__ import annotations

import pytest

from scheduler_service.fleet.rates import (
    PATH_MEMORY,
    PROBE,
    SAMPLES,
    SLOT,
    SLOTS,
    UNKNOWN_RUN,
    CompletionRate,
    PathTime,
    RunTimes,
    path_of,
)


def test_the_rate_is_that_of_the_best_slot_lately() -> None:
    rate = CompletionRate()
    for slot, count in enumerate([3, 9, 1]):
        for _ in range(count):
            rate.add(1, 100.0 + (slot + 0.5) * SLOT)
    assert rate.per_slot(100.0 + 2.5 * SLOT) == 9


def test_the_rate_is_forgotten_when_nothing_completes() -> None:
    rate = CompletionRate()
    assert rate.per_slot(0.0) == 0
    rate.add(7, 100.05)
    assert rate.per_slot(100.05 + (SLOTS - 1) * SLOT) == 7
    assert rate.per_slot(100.05 + (SLOTS + 1) * SLOT) == 0


def test_an_unknown_run_time_counts_as_100_ms() -> None:
    assert RunTimes().expected == UNKNOWN_RUN == 0.1


def test_the_expected_run_time_is_the_lower_quartile() -> None:
    times = RunTimes()
    for seconds in range(1, 9):
        times.add(float(seconds))
    assert times.expected == 3.0


def test_a_few_slow_runs_do_not_change_what_is_expected() -> None:
    times = RunTimes()
    for number in range(SAMPLES):
        times.add(60.0 if number % 2 else 0.001)
    assert times.expected == 0.001


def test_old_run_times_are_forgotten() -> None:
    times = RunTimes()
    for seconds in [0.001] * SAMPLES + [5.0] * SAMPLES:
        times.add(seconds)
    assert times.expected == 5.0


def test_a_run_time_counts_from_the_first_on() -> None:
    times = RunTimes()
    times.add(2.0)
    assert times.expected == 2.0
    times.add(0.5)
    assert times.expected == 0.5


def path(*times: PathTime, at: float) -> float:
    return path_of(times, at).seconds


def probed(*times: PathTime, at: float) -> bool:
    return path_of(times, at).probed


def test_the_least_path_time_of_the_last_minute() -> None:
    times = PathTime()
    assert path(times, at=0.0) == 0.0
    for at, seconds in [(0.0, 0.5), (10.0, 0.2), (20.0, 0.3)]:
        times.add(seconds, at)
    assert path(times, at=20.0) == 0.2
    assert path(times, at=10.5 + PATH_MEMORY) == 0.3
    assert path(times, at=20.5 + PATH_MEMORY) == 0.3, "better than nothing"


def test_the_path_is_probed_once_a_minute_when_nothing_tells_it() -> None:
    times = PathTime()
    assert not probed(times, at=PATH_MEMORY)
    times.add(0.1, PATH_MEMORY - 5.0)
    assert not probed(times, at=PATH_MEMORY)
    assert probed(times, at=2 * PATH_MEMORY)
    assert probed(times, at=2 * PATH_MEMORY + PROBE - 0.01)
    assert not probed(times, at=2 * PATH_MEMORY + PROBE)
    times.add(0.1, 2 * PATH_MEMORY + 0.1)
    assert not probed(times, at=2 * PATH_MEMORY + 0.1)


def test_a_long_path_of_queues_that_share_workers_is_probed_until_what_is_out_is_over() -> None:
    times = PathTime()
    times.add(1.0, 5.0)
    assert not path_of([times], PATH_MEMORY + PROBE, shared=False).probed
    assert probed(times, at=PATH_MEMORY + 5.9)
    assert not probed(times, at=PATH_MEMORY + 6.1)
    times.add(1000.0, 2 * PATH_MEMORY)
    assert not probed(times, at=3.5 * PATH_MEMORY + 1.0), "for half of the time at most"


def test_queues_that_share_workers_have_one_path() -> None:
    slow, fast, unknown = PathTime(), PathTime(), PathTime()
    slow.add(0.3, 0.0)
    assert path(slow, unknown, at=1.0) == path(unknown, slow, at=1.0) == 0.3
    fast.add(0.01, 2.0)
    assert path(slow, fast, unknown, at=3.0) == 0.01


def test_a_path_that_was_quick_once_does_not_count_when_another_queue_tells_better() -> None:
    quick, slow = PathTime(), PathTime()
    quick.add(0.01, 0.0)
    slow.add(0.3, PATH_MEMORY - 1.0)
    assert path(quick, slow, at=PATH_MEMORY) == 0.01
    assert path(quick, slow, at=PATH_MEMORY + 1.0) == 0.3
    assert path(quick, slow, at=10 * PATH_MEMORY) == 0.3, "what was seen last, while nothing is new"


def test_queues_that_share_workers_are_probed_together_unless_one_tells() -> None:
    told, unknown = PathTime(), PathTime()
    told.add(0.1, 0.0)
    assert probed(told, unknown, at=PATH_MEMORY) == probed(unknown, told, at=PATH_MEMORY) is True
    unknown.add(0.1, PATH_MEMORY)
    assert not probed(told, unknown, at=PATH_MEMORY + 0.1)


@pytest.mark.parametrize("count", [10, 10_000])
def test_memory_does_not_grow_with_the_tasks(count: int) -> None:
    rate, times, path = CompletionRate(), RunTimes(), PathTime()
    for number in range(count):
        now = number * 0.05
        rate.add(1, now)
        times.add(0.01)
        path.add(0.01 + (number % 7) * 0.001, now)
    assert len(rate._counts) <= SLOTS
    assert len(times._samples) <= SAMPLES
    assert len(path._least) <= PATH_MEMORY + 2

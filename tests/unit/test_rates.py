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


def test_the_least_path_time_of_the_last_minute() -> None:
    path = PathTime()
    assert path.least(0.0) == 0.0
    for at, seconds in [(0.0, 0.5), (10.0, 0.2), (20.0, 0.3)]:
        path.add(seconds, at)
    assert path.least(20.0) == 0.2
    assert path.least(10.5 + PATH_MEMORY) == 0.3
    assert path.least(20.5 + PATH_MEMORY) == 0.3  # better than nothing


def test_the_path_is_probed_once_a_minute_when_nothing_tells_it() -> None:
    path = PathTime()
    assert not path.probes(PATH_MEMORY)
    path.add(0.1, PATH_MEMORY - 5.0)
    assert not path.probes(PATH_MEMORY)
    assert path.probes(2 * PATH_MEMORY)
    assert path.probes(2 * PATH_MEMORY + PROBE - 0.01)
    assert not path.probes(2 * PATH_MEMORY + PROBE)
    path.add(0.1, 2 * PATH_MEMORY + 0.1)
    assert not path.probes(2 * PATH_MEMORY + 0.1)


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

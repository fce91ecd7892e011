"""How many may be out, and how many travel together: the arithmetic of design section 8."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire import BUNDLE_TASKS
from scheduler_service.fleet.window import Window, window


def at(
    *,
    slots: int = 10,
    workers: int = 2,
    completions: int = 0,
    expected_run: float = 0.1,
    path: float = 0.0,
    limit: int = 5000,
) -> Window:
    return window(
        slots=slots, workers=workers, completions=completions, expected_run=expected_run, path=path, limit=limit
    )


@pytest.mark.parametrize(("slots", "workers"), [(0, 0), (0, 2), (10, 0)])
def test_nothing_is_dispatched_when_nobody_works(slots: int, workers: int) -> None:
    assert at(slots=slots, workers=workers, completions=1000) == Window(0, 1)


def test_at_rest_the_window_is_the_slots_and_tasks_travel_one_by_one() -> None:
    assert at() == Window(10, 1)


def test_long_tasks_do_not_wait_in_the_broker() -> None:
    assert at(completions=1, expected_run=60.0) == Window(10, 1, 0, 1 / 60)


def test_short_tasks_get_what_completes_in_the_horizon() -> None:
    assert at(slots=100, completions=500, expected_run=0.001) == Window(600, 20, 500, 500.0)


def test_the_lead_grows_to_twice_a_slow_path() -> None:
    assert at(completions=20, expected_run=0.01).tasks == 10 + 20
    assert at(completions=20, expected_run=0.01, path=0.2).tasks == 10 + 80


def test_the_lead_is_no_more_than_the_slots_could_run() -> None:
    assert at(slots=10, completions=10_000, expected_run=0.05).tasks == 10 + 20


def test_the_window_has_a_limit_but_no_slot_stays_idle_for_it() -> None:
    assert at(slots=100, completions=10**6, expected_run=1e-6, limit=500).tasks == 500
    assert at(slots=1000, completions=10**6, expected_run=1e-6, limit=500).tasks == 1000


def test_a_bundle_is_at_most_its_workers_share_of_the_lead() -> None:
    assert at(slots=1000, workers=4, completions=40, expected_run=0.0001).bundle == 10


def test_a_bundle_is_at_most_20_ms_of_work() -> None:
    assert at(slots=1000, workers=1, completions=1000, expected_run=0.004).bundle == 5
    assert at(slots=1000, workers=1, completions=1000, expected_run=0.05).bundle == 1


def test_a_bundle_is_at_most_100_tasks() -> None:
    assert at(slots=1000, workers=1, completions=10**6, expected_run=0.0).bundle == BUNDLE_TASKS


@given(
    slots=st.integers(0, 2000),
    workers=st.integers(0, 50),
    completions=st.integers(0, 10**5),
    expected_run=st.floats(0, 1000),
    path=st.floats(0, 60),
    limit=st.integers(1, 10**4),
)
def test_whatever_is_known_the_sizes_stay_in_their_bounds(
    slots: int, workers: int, completions: int, expected_run: float, path: float, limit: int
) -> None:
    size = window(
        slots=slots, workers=workers, completions=completions, expected_run=expected_run, path=path, limit=limit
    )
    assert 1 <= size.bundle <= BUNDLE_TASKS
    if not slots or not workers:
        assert size.tasks == 0
    else:
        assert slots <= size.tasks <= max(limit, slots)

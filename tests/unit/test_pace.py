"""What was learned from the tasks that completed."""

from __future__ import annotations

import pytest

from scheduler_service.fleet import pace as pace_module
from scheduler_service.fleet.pace import Pace
from scheduler_service.fleet.rates import UNKNOWN_RUN

NOW = 1000.0


@pytest.fixture
def pace() -> Pace:
    return Pace()


def test_a_queue_is_expected_to_run_as_long_as_the_function_that_was_last_seen_there(pace: Pace) -> None:
    assert pace.expected_in("default") == UNKNOWN_RUN
    pace.ran("default", "short", [0.001], NOW)
    pace.ran("email", "long", [5.0], NOW)
    assert (pace.expected_run("short"), pace.expected_in("default")) == (0.001, 0.001)
    pace.ran("default", "long", [5.0], NOW)
    assert pace.expected_in("default") == 5.0


def test_completions_are_counted_by_queue(pace: Pace) -> None:
    pace.ran("default", "short", [0.001] * 10, NOW)
    assert (pace.per_slot("default", NOW), pace.per_second("default", NOW)) == (10, 20.0)
    assert (pace.per_slot("email", NOW), pace.per_second("email", NOW)) == (0, 0.0)


def test_queues_that_share_workers_have_their_path_in_common(pace: Pace) -> None:
    pace.travelled("default", 0.02, NOW)
    pace.travelled("email", 0.01, NOW)
    assert pace.path({"default"}, NOW).seconds == 0.02
    assert pace.path({"default", "email"}, NOW).seconds == 0.01
    assert pace.path({"unknown"}, NOW).seconds == 0.0


def test_the_names_whose_run_times_are_remembered_are_bounded(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "FUNCTIONS", 3)
    for number in range(20):
        pace.ran("default", f"f{number}", [0.5], NOW)
    assert len(pace._runs) <= 4

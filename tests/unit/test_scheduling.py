"""How a fleet is scheduled, under a fake clock: shares, limits, order, waiting times. See docs/scheduling.md."""

from __future__ import annotations

import pytest

from tests.support.fleet import Fleet, of

# --- the window ------------------------------------------------------------------------------------------------------


def test_the_window_of_a_queue_that_is_never_at_rest_does_not_grow() -> None:
    fleet = Fleet()
    fleet.worker(4)
    fleet.submit(of(), *[0.1] * 13_000)
    fleet.run(30.0)
    window = fleet.flights.window("q", fleet.now)
    fleet.run(300.0)
    assert fleet.flights.window("q", fleet.now) == window
    waited = [job.started - job.sent for job in fleet.done[-100:]]
    assert max(waited) < 0.15
    assert len(fleet.done) == pytest.approx(4 * 10 * 300, rel=0.01)


def test_a_path_that_becomes_slow_under_load_is_noticed() -> None:
    fleet = Fleet()
    fleet.worker(4)
    fleet.submit(of(), *[0.05] * 13_000)
    fleet.run(30.0)
    fleet.path = 0.3
    fleet.run(120.0)
    before = len(fleet.done)
    fleet.run(150.0)
    assert len(fleet.done) - before == pytest.approx(4 * 20 * 30, rel=0.02)

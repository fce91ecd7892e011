"""How long a queue takes to run empty, and how many workers it should have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.fleet.scaling import Demand, drain_seconds, recommended_workers

demands = st.builds(
    Demand,
    waiting=st.integers(0, 1_000_000),
    out=st.integers(0, 5000),
    accepted=st.floats(0, 20_000),
    finished=st.floats(0, 20_000),
    oldest=st.floats(0, 86_400),
    run=st.floats(0, 3600),
    slots=st.floats(0, 10_000),
    worker_slots=st.floats(1, 500),
    rate=st.none() | st.floats(0.01, 10_000),
    concurrency=st.none() | st.integers(1, 1000),
    paused=st.booleans(),
)


class TestDrainSeconds:
    def test_what_waits_needs_its_run_time_on_each_slot(self) -> None:
        assert drain_seconds(Demand(waiting=1000, run=0.5, slots=50)) == 10.0

    def test_nothing_that_waits_is_drained(self) -> None:
        assert drain_seconds(Demand(slots=0)) == 0.0

    @pytest.mark.parametrize("demand", [Demand(waiting=1), Demand(waiting=1, slots=4, paused=True)])
    def test_without_slots_or_paused_it_never_is(self, demand: Demand) -> None:
        assert drain_seconds(demand) is None

    def test_limits_make_it_longer(self) -> None:
        assert drain_seconds(Demand(waiting=1000, run=0.1, slots=50, rate=10.0)) == 100.0
        assert drain_seconds(Demand(waiting=1000, run=0.1, slots=50, concurrency=1)) == 100.0

    def test_what_was_seen_counts_once_the_slots_are_busy(self) -> None:
        seen = Demand(waiting=1000, run=0.1, slots=50, finished=20.0)
        assert drain_seconds(seen) == 2.0
        assert drain_seconds(Demand(waiting=1000, run=0.1, slots=50, finished=20.0, oldest=30.0)) == 50.0

    def test_a_task_that_takes_no_time_still_takes_a_turn(self) -> None:
        assert drain_seconds(Demand(waiting=10_000, run=0.0, slots=50)) == 1.0


class TestRecommendedWorkers:
    def test_enough_to_drain_within_the_target(self) -> None:
        assert recommended_workers(Demand(waiting=6000, run=1.0, worker_slots=50), 60.0) == 2
        assert recommended_workers(Demand(waiting=6001, run=1.0, worker_slots=50), 60.0) == 3

    def test_at_least_what_arrives_needs(self) -> None:
        assert recommended_workers(Demand(accepted=100.0, run=1.0, worker_slots=50), 60.0) == 2
        assert recommended_workers(Demand(accepted=0.01, run=0.01), 60.0) == 1

    def test_zero_only_when_nothing_waits_comes_or_runs(self) -> None:
        assert recommended_workers(Demand(slots=50), 60.0) == 0
        assert recommended_workers(Demand(waiting=1), 60.0) == 1
        assert recommended_workers(Demand(out=1), 60.0) == 1

    def test_what_runs_keeps_its_slots(self) -> None:
        assert recommended_workers(Demand(out=101, run=3600.0, worker_slots=50), 60.0) == 3

    def test_never_more_slots_than_tasks(self) -> None:
        assert recommended_workers(Demand(waiting=10, run=3600.0, worker_slots=1), 60.0) == 10

    def test_limits_bound_what_more_workers_could_do(self) -> None:
        many = {"waiting": 100_000, "run": 1.0, "worker_slots": 10}
        assert recommended_workers(Demand(**many, concurrency=25), 60.0) == 3  # type: ignore[arg-type]
        assert recommended_workers(Demand(**many, rate=20.0), 60.0) == 2  # type: ignore[arg-type]

    def test_a_paused_queue_needs_only_what_it_has_out(self) -> None:
        assert recommended_workers(Demand(waiting=10_000, accepted=50.0, paused=True), 60.0) == 0
        assert recommended_workers(Demand(waiting=10_000, out=3, paused=True), 60.0) == 1


@given(demands, st.floats(1, 3600))
def test_never_negative_and_never_more_than_the_tasks_need(demand: Demand, target: float) -> None:
    drain = drain_seconds(demand)
    assert drain is None or drain >= 0
    workers = recommended_workers(demand, target)
    assert workers >= 0
    slots = demand.waiting + demand.out + demand.accepted * max(demand.run, 0.005)
    assert workers <= slots / demand.worker_slots + 1
    if demand.waiting and not demand.paused:
        assert workers >= 1

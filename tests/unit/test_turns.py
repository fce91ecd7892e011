"""Whose turn it is: priorities, ageing, keys, store order, and what may not go."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.quotas import Quota, Rate, Scope
from scheduler_service.fleet import hand, turns
from scheduler_service.fleet.lanes import Lane
from tests.support.fleet import START, Fleet, Job, of

LONG = 30.0
"""Seconds: of such tasks none waits in the broker."""


def one_slot(**quotas: dict[str, Any]) -> Fleet:
    """A fleet with one slot, and a quota for its queue."""
    fleet = Fleet()
    fleet.worker(1)
    for scope, what in quotas.items():
        fleet.ledger.set(Quota(scope=Scope(scope), **({"name": "q"} | what)))
    return fleet


def order(fleet: Fleet, *jobs: list[Job], limit: float = 1e6) -> list[Job]:
    fleet.run_until(lambda: all(job.ended for each in jobs for job in each), limit)
    return sorted((job for each in jobs for job in each), key=lambda job: job.started)


def blocker(fleet: Fleet) -> None:
    """The one slot is busy, so that what comes next waits."""
    fleet.submit(of(), LONG)
    fleet.run(fleet.now - START + 1.0)


# --- order -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("tuv")), min_size=1, max_size=20))
def test_strictly_by_priority_then_in_store_order_across_functions(tasks: list[tuple[int, str]]) -> None:
    fleet = one_slot()
    blocker(fleet)
    jobs = [fleet.submit(of(priority=priority, task=task), LONG) for priority, task in tasks]
    seen = order(fleet, *jobs)
    assert [job.seq for job in seen] == [
        job.seq for job in sorted((job for (job,) in jobs), key=lambda job: (-job.lane.priority, job.seq))
    ]


def test_a_new_task_does_not_overtake_one_that_waits_and_may_go() -> None:
    fleet = one_slot()
    blocker(fleet)
    first = fleet.submit(of(task="t"), LONG)
    fleet.worker(1)
    second = fleet.submit(of(task="u"), LONG)
    assert order(fleet, first, second)[0] is first[0]


def test_a_new_task_of_higher_priority_goes_before_all_that_wait() -> None:
    fleet = one_slot()
    waiting = fleet.submit(of(priority=4), *[LONG] * 10)
    fleet.run(1.0)
    urgent = fleet.submit(of(priority=5), LONG)
    assert order(fleet, waiting, urgent)[1] is urgent[0]


def test_it_goes_at_once_past_what_may_not_go() -> None:
    fleet = one_slot(task={"name": "slow", "paused": True})
    stuck = fleet.submit(of(priority=9, task="slow"), LONG)
    (fine,) = fleet.submit(of(), LONG)
    assert fine.sent == fleet.now
    assert not stuck[0].sent


# --- ageing ----------------------------------------------------------------------------------------------------------


def starving(ageing: float | None) -> tuple[Fleet, list[Job]]:
    """Tasks of priority 5 keep coming, one each second; five of priority 2 wait from the start. One slot, 1 s each."""
    fleet = one_slot(queue={"ageing": ageing})
    blocker(fleet)
    low = fleet.submit(of(priority=2), *[1.0] * 5)
    for second in range(300):
        fleet.after(float(second), partial(fleet.submit, of(priority=5), 1.0))
    return fleet, low


def test_without_ageing_low_priority_waits_for_ever() -> None:
    fleet, low = starving(None)
    fleet.run(300.0)
    assert not any(job.sent for job in low)


def test_with_ageing_each_span_of_waiting_counts_as_a_step_of_priority() -> None:
    fleet, low = starving(10.0)
    fleet.run(150.0)
    # Those of priority 5 have waited 30 s when their turn comes, the blocker's time; so 3 steps more take 30 s more.
    assert 50.0 < low[0].waited < 70.0
    assert all(job.ended for job in low)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8), st.integers(1, 9), st.floats(1.0, 100.0), st.floats(0.0, 1000.0))
def test_the_effective_priority_is_priority_and_waiting_by_the_span(
    low: int, steps: int, span: float, later: float
) -> None:  # fmt: skip
    fleet = one_slot(queue={"ageing": span})
    fleet.submit(of(), 10_000.0)
    old = fleet.submit(of(priority=low), LONG)
    fleet.run(later)
    new = fleet.submit(of(priority=low + steps), LONG)
    overtakes = later / span > steps
    if abs(later / span - steps) > 1e-3:
        assert (order(fleet, old, new)[0] is old[0]) == overtakes


def test_what_may_not_go_does_not_age_the_others_of_its_priority() -> None:
    fleet = one_slot(queue={"ageing": 1.0}, key={"name": "late-payer", "paused": True})
    fleet.submit(of(priority=2, key="late-payer"), LONG)
    fleet.run(100.0)
    blocker(fleet)
    low = fleet.submit(of(priority=2, key="anna"), LONG)
    high = fleet.submit(of(priority=5), LONG)
    assert order(fleet, low, high)[0] is high[0]


def test_the_oldest_of_all_keys_of_a_priority_counts() -> None:
    fleet = one_slot(queue={"ageing": 1.0})
    fleet.submit(of(), 2 * LONG)
    old = fleet.submit(of(priority=2, key="a"), LONG)
    fleet.run(10.0)
    young = fleet.submit(of(priority=2, key="b"), LONG)
    high = fleet.submit(of(priority=5), LONG)
    assert order(fleet, old, young, high)[0].lane.priority == 2


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_take_turns_whatever_the_order_of_their_tasks() -> None:
    fleet = one_slot()
    blocker(fleet)
    jobs = [fleet.submit(of(key=key), *[LONG] * 8) for key in "abc"]
    keys = [job.lane.key for job in order(fleet, *jobs)]
    assert all(set(keys[at : at + 3]) == set("abc") for at in range(3, 21, 3))


def test_a_key_that_comes_anew_has_the_next_slots() -> None:
    fleet = Fleet()
    fleet.worker(4)
    fleet.submit(of(key="large"), *[LONG] * 40)
    fleet.run(2 * LONG + 1.0)
    small = fleet.submit(of(key="small"), *[LONG] * 4)
    order(fleet, small)
    assert max(job.waited for job in small) < LONG


def test_a_key_gains_nothing_by_many_functions_or_labels() -> None:
    fleet = one_slot()
    blocker(fleet)
    many = [fleet.submit(of(key="many", task=f"t{number}"), *[LONG] * 4) for number in range(10)]
    one = fleet.submit(of(key="one"), *[LONG] * 10)
    first = order(fleet, *many, one)[:20]
    assert Counter(job.lane.key for job in first)["one"] == pytest.approx(10, abs=1)


def test_inside_a_key_store_order_counts_across_its_lanes() -> None:
    fleet = one_slot()
    blocker(fleet)
    jobs = [fleet.submit(of(key="a", task="tuv"[number % 3]), LONG) for number in range(12)]
    seen = order(fleet, *jobs)
    assert [job.seq for job in seen] == sorted(job.seq for job in seen)


def test_priority_counts_before_fairness() -> None:
    fleet = one_slot()
    blocker(fleet)
    low = fleet.submit(of(key="a", priority=3), *[LONG] * 3)
    high = fleet.submit(of(key="b", priority=4), *[LONG] * 3)
    assert [job.lane.key for job in order(fleet, low, high)] == list("bbbaaa")


# --- what may not go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "stuck"),
    [("task", of(key="a", task="x")), ("key", of(key="x")), ("queue", of("x"))],
    ids=["task", "key", "queue"],
)
@pytest.mark.parametrize("what", [{"paused": True}, {"rate": Rate(1, 3600.0)}, {"concurrency": 1}], ids=str)
def test_a_lane_that_may_not_go_blocks_no_other(scope: str, stuck: Lane, what: dict[str, Any]) -> None:
    fleet = Fleet()
    fleet.worker(4, "q", "x")
    fleet.ledger.set(Quota(scope=Scope(scope), name="x", **what))
    fleet.submit(stuck, 1e6)
    waiting = fleet.submit(stuck, *[1e6] * 5)
    fine = [fleet.submit(lane, *[0.1] * 20) for lane in (of(key="a"), of(key="b", priority=1), of())]
    fleet.run(30.0)
    assert all(job.ended for each in fine for job in each)
    assert not any(job.sent for job in waiting)


def test_lanes_of_one_key_with_and_without_a_limit_take_turns() -> None:
    fleet = one_slot(task={"name": "x", "concurrency": 5})
    blocker(fleet)
    limited = fleet.submit(of(task="x"), *[LONG] * 5)
    other = fleet.submit(of(task="y"), *[LONG] * 5)
    first = order(fleet, limited, other)[:4]
    assert Counter(job.lane.task for job in first) == {"x": 2, "y": 2}


def test_very_many_that_may_not_go_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOOKS", 10)
    fleet = one_slot()
    for number in range(100):
        fleet.ledger.set(Quota(scope=Scope.KEY, name=f"key-{number}", paused=True))
        fleet.submit(of(key=f"key-{number}"), 1.0)
    fine = fleet.submit(of(key="fine"), 1.0)
    order(fleet, fine, limit=10.0)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_of_very_many_keys_nothing_is_lost_in_the_overflow_lane() -> None:
    fleet = Fleet(max_lanes=20)
    fleet.worker(10)
    jobs = [fleet.submit(of(key=f"key-{number % 300}"), 0.05) for number in range(600)]
    assert len(fleet.backlog) <= 21
    order(fleet, *jobs)
    assert len(fleet.done) == 600
    assert dict(fleet.backlog.totals()) == {}


def test_of_very_many_lanes_of_a_key_those_that_wait_longest_are_claimed_together() -> None:
    fleet = Fleet()
    fleet.worker(10)
    for number in range(100):
        fleet.backlog.add(of(key="a", task=f"t{number}"), 1, fleet.wall - number)
    (turn,) = fleet.turns.plan(fleet.now, fleet.wall)
    assert {lane.task for lane in turn.lanes} == {f"t{number}" for number in range(100 - hand.MERGED, 100)}

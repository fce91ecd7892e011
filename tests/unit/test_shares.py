"""How queues that share workers divide their slots."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.fleet.shares import LONGEST_LAG, LONGEST_STEP, Group, Shares, divide

QUEUES = "abcd"
groups = st.lists(
    st.builds(Group, st.sets(st.sampled_from(QUEUES), min_size=1).map(frozenset), st.integers(0, 50)), max_size=4
)
demands = st.dictionaries(st.sampled_from(QUEUES), st.integers(0, 200).map(float), max_size=4)
weights = st.fixed_dictionaries({queue: st.floats(0.01, 100.0) for queue in QUEUES})


def everything(slots: int) -> list[Group]:
    return [Group(frozenset(QUEUES), slots)]


@settings(deadline=None)
@given(groups, demands, weights)
def test_nobody_gets_more_than_asked_and_nothing_that_somebody_could_use_is_left(
    groups: list[Group], demands: dict[str, float], weights: dict[str, float]
) -> None:
    shares = divide(groups, demands, weights.__getitem__)
    for queue, share in shares.items():
        assert 0 <= share <= demands[queue] + 1e-6
        assert share <= sum(group.slots for group in groups if queue in group.queues) + 1e-6
    assert sum(shares.values()) <= sum(group.slots for group in groups) + 1e-6
    for queue, demand in demands.items():
        if shares.get(queue, 0.0) < demand - 1e-6:
            reached = sum(group.slots for group in groups if queue in group.queues)
            others = sum(shares.get(other, 0.0) for other in QUEUES if other != queue)
            assert shares.get(queue, 0.0) >= reached - others - 1e-6


@settings(deadline=None)
@given(st.integers(1, 50), weights)
def test_queues_that_all_want_everything_share_by_weight(slots: int, weights: dict[str, float]) -> None:
    shares = divide(everything(slots), dict.fromkeys(QUEUES, 1e9), weights.__getitem__)
    whole = sum(weights.values())
    assert shares == pytest.approx({queue: slots * weight / whole for queue, weight in weights.items()})


def test_what_one_does_not_use_goes_to_the_others_by_weight() -> None:
    weigh = {"a": 1.0, "b": 1.0, "c": 2.0}.__getitem__
    shares = divide([Group(frozenset("abc"), 12)], {"a": 100.0, "b": 0.0, "c": 100.0}, weigh)
    assert shares == pytest.approx({"a": 4.0, "c": 8.0})


def test_workers_that_serve_one_queue_only_are_its_own() -> None:
    both, own = Group(frozenset("ab"), 10), Group(frozenset("a"), 10)
    shares = divide([both, own], {"a": 100.0, "b": 100.0}, lambda queue: 1.0)
    assert shares == pytest.approx({"a": 15.0, "b": 5.0})


def test_a_queue_that_wants_nothing_is_owed_nothing() -> None:
    shares = Shares(lambda queue: 1.0)
    shares.divide(everything(3), {"a": 9.0, "b": 9.0}, 0.0)
    shares.used("a", 30.0)
    shares.divide(everything(3), {"a": 9.0, "b": 9.0}, 10.0)
    assert shares.lag("b") == pytest.approx(15.0)
    shares.divide(everything(3), {"a": 9.0}, 20.0)
    assert shares.lag("b") == 0.0


def test_a_queue_that_has_all_it_wants_is_owed_nothing_though_its_slots_were_idle_between_two_tasks() -> None:
    shares = Shares(lambda queue: 1.0)
    for second in range(1000):
        shares.divide(everything(4), {"a": 1.0, "b": 9.0}, float(second))
        shares.used("a", 0.5)
        shares.used("b", 3.0)
    assert shares.lag("a") < 1.0
    assert shares.lag("b") > -4.0, "the last of what it used"


def test_what_is_owed_has_a_bound_and_a_pause_of_the_scheduler_counts_little() -> None:
    shares = Shares(lambda queue: 1.0)
    for now in (0.0, 1e6):
        shares.divide(everything(1), {"a": 9.0, "b": 9.0}, now)
        if not now:
            shares.used("b", LONGEST_STEP)
    assert shares.lag("a") == pytest.approx(LONGEST_STEP / 2)
    shares.used("a", 1e9)
    assert shares.lag("a") == -LONGEST_LAG
    for now in range(2_000_000, 4_000_000, 100):
        shares.used("a", LONGEST_STEP)
        shares.divide(everything(1), {"a": 9.0, "b": 9.0}, now)
    assert shares.lag("b") == LONGEST_LAG


def test_a_look_changes_nothing() -> None:
    shares = Shares(lambda queue: 1.0)
    shares.divide(everything(1), {"a": 9.0, "b": 9.0}, 0.0)
    for _ in range(3):
        assert shares.peek(everything(1), {"a": 9.0}) == {"a": 1.0}
    shares.used("a", 2.0)
    shares.divide(everything(1), {"a": 9.0, "b": 9.0}, 2.0)
    assert shares.lag("b") == pytest.approx(1.0)


@pytest.mark.parametrize("busy", [1.0, 0.8, 0.5])
def test_time_in_which_slots_were_idle_is_owed_to_nobody(busy: float) -> None:
    """Between two tasks a slot is idle for a moment; the lags tell who is behind the others all the same."""
    weights = {"a": 3.0, "b": 2.0, "c": 1.0}
    shares = Shares(weights.__getitem__)
    had = dict.fromkeys(weights, 0)
    for step in range(1_000):
        shares.divide(everything(2), dict.fromkeys(weights, 9.0), step * 0.05)
        for queue in sorted(weights, key=shares.lag, reverse=True)[:2]:
            had[queue] += 1
            shares.used(queue, 0.05 * busy)
    assert had == {"a": pytest.approx(1000, abs=3), "b": pytest.approx(667, abs=3), "c": pytest.approx(333, abs=3)}
    assert abs(sum(map(shares.lag, weights))) < 1.0

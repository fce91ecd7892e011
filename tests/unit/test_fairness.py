"""Turns between the keys of one queue and priority."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.fleet import fairness
from scheduler_service.fleet.fairness import FairQueue, Waiting
from scheduler_service.fleet.lanes import lane

KEYS = "abcde"
weights = st.dictionaries(st.sampled_from(KEYS), st.floats(0.1, 10.0), min_size=2)


def fill(level: FairQueue, *keys: str, count: int = 10**9) -> None:
    for key in keys:
        level.add(Waiting(lane("q", 4, "t", key)), count)


def empty(level: FairQueue, key: str) -> None:
    flow = level.flows[key]
    for waiting in list(flow.lanes.values()):
        level.add(waiting, -waiting.count)


def go(level: FairQueue, steps: int, count: int = 1) -> list[str]:
    """The keys that have their turns."""
    order = []
    for _ in range(steps):
        flow = level.first()
        assert flow is not None
        level.charge(flow, count)
        order.append(flow.key)
    return order


@settings(deadline=None)
@given(weights, st.integers(1, 7))
def test_turns_match_the_weights_at_each_moment(weights: dict[str, float], count: int) -> None:
    level = FairQueue(weights.__getitem__)
    fill(level, *weights)
    whole = sum(weights.values())
    turns: Counter[str] = Counter()
    for step, key in enumerate(go(level, 400, count), start=1):
        turns[key] += 1
        for each, weight in weights.items():
            # Nobody is ahead of its share by more than its own turn, nor behind by more than one of each other.
            assert turns[each] - step * weight / whole <= 1 + 1e-6
            assert step * weight / whole - turns[each] <= len(weights) * max(1.0, weight / whole * len(weights))


def test_shares_are_within_two_percent_of_the_weights() -> None:
    weights = {"a": 5.0, "b": 3.0, "c": 2.0, "d": 0.5}
    level = FairQueue(weights.__getitem__)
    fill(level, *weights)
    turns = Counter(go(level, 2100))
    assert turns == {key: pytest.approx(200 * weight, rel=0.02) for key, weight in weights.items()}


def test_each_task_of_a_turn_counts() -> None:
    level = FairQueue()
    fill(level, "a", "b")
    tasks: Counter[str] = Counter()
    for _ in range(1000):
        flow = level.first()
        assert flow is not None
        count = 10 if flow.key == "a" else 1
        level.charge(flow, count)
        tasks[flow.key] += count
    assert tasks["a"] == pytest.approx(tasks["b"], abs=10)


def test_weights_that_change_count_from_the_next_turn_on() -> None:
    weights = {"a": 1.0, "b": 1.0}
    level = FairQueue(weights.__getitem__)
    fill(level, *weights)
    go(level, 100)
    weights["a"] = 3.0
    assert Counter(go(level, 400))["a"] == pytest.approx(300, rel=0.02)


def test_one_that_comes_late_has_its_share_from_then_on_and_not_what_it_missed() -> None:
    level = FairQueue()
    fill(level, "a")
    go(level, 1000)
    fill(level, "b")
    assert Counter(go(level, 100))["b"] == pytest.approx(50, abs=1)


def test_one_that_waited_for_nothing_so_far_has_a_credit() -> None:
    level = FairQueue()
    fill(level, "a")
    go(level, 1000)
    level.credit = 10.0
    fill(level, "b")
    assert go(level, 12).count("b") >= 11


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("bc"), st.integers(1, 4)), max_size=120), st.integers(0, 20))
def test_nobody_gains_by_coming_and_going(comings: list[tuple[str, int]], credit: int) -> None:
    """Beside one that always waits, over any time a flow has at most its share and one credit."""
    level = FairQueue()
    level.credit = float(credit)
    fill(level, "a")
    order = go(level, 5)
    for key, steps in comings:
        fill(level, key)
        order += go(level, steps)
        if key in level.flows:
            empty(level, key)
    for key in "bc":
        ahead = least = 0
        for each in order:
            ahead += (each == key) - (each == "a")
            least = min(least, ahead)
            assert ahead - least <= credit + 2


def test_who_may_not_go_is_passed_over_and_holds_up_nobody() -> None:
    level = FairQueue()
    fill(level, "a", "b", "c")
    blocked = level.flows["b"]
    level.park(blocked)
    assert Counter(go(level, 10)) == {"a": 5, "c": 5}
    level.wake(blocked)
    assert "b" in go(level, 2)


def test_one_that_is_parked_is_looked_at_when_its_reason_has_passed() -> None:
    level = FairQueue()
    fill(level, "a")
    level.park(level.flows["a"], ["full"])
    assert level.first() is None
    assert level.parked_tasks == 10**9
    assert level.first(["other"]) is None
    flow = level.first(["full"])
    assert flow is not None
    assert (flow.key, level.parked_tasks, level.going) == ("a", 0, 1)


def test_everybody_is_looked_at_when_anything_may_have_changed() -> None:
    level = FairQueue()
    fill(level, *KEYS)
    for flow in list(level.flows.values()):
        level.park(flow, ["full"])
    assert level.first() is None
    level.wake_all()
    assert Counter(go(level, 50)) == dict.fromkeys(KEYS, 10)


def test_an_empty_flow_has_no_turn() -> None:
    level = FairQueue()
    fill(level, "a", "b")
    empty(level, "a")
    assert set(go(level, 5)) == {"b"}
    empty(level, "b")
    assert level.first() is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "REMEMBERED", 50)
    level = FairQueue()
    fill(level, "a")
    for number in range(500):
        key = f"key-{number}"
        fill(level, key)
        level.park(level.flows[key], [f"reason-{number % 3}"])
        level.wake(level.flows[key])
        go(level, 3)
        empty(level, key)
    assert len(level._gone) <= 50
    assert len(level._ready) <= 100
    assert all(len(heap) <= 100 for heap in level._parked.values())


def test_who_left_last_is_remembered_however_many_did_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keys with one task each all go on their credit, so time stands still and nobody's share is long ago."""
    monkeypatch.setattr(fairness, "REMEMBERED", 50)
    level = FairQueue()
    fill(level, "a")
    go(level, 100)
    level.credit = 10.0
    for number in range(500):
        key = f"key-{number}"
        fill(level, key)
        assert go(level, 1) == [key]
        empty(level, key)
    assert list(level._gone) == [f"key-{number}" for number in range(450, 500)]

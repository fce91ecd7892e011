"""Who has the places of shared workers."""

from __future__ import annotations

from collections import Counter, deque
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.fleet.places import Claim, hand_out
from scheduler_service.fleet.shares import Group, Shares, divide

QUEUES = "abcd"


def claim(
    queue: str,
    share: float = 0.0,
    *,
    out: int = 0,
    wants: int = 100,
    lag: float = 0.0,
    lead: float = 0.0,
    run: float = 0.1,
) -> Claim:
    return Claim(queue, share, lead, lag, out, wants, 100, run)


def workers(slots: int, queues: str = QUEUES) -> Group:
    return Group(frozenset(queues), slots)


def test_places_are_given_by_share() -> None:
    given = hand_out([claim("a", 6.0), claim("b", 4.0), claim("c", 2.0)], [workers(12)])
    assert given == {"a": 6, "b": 4, "c": 2}


def test_who_is_behind_goes_first_and_who_is_ahead_keeps_whole_slots() -> None:
    assert hand_out([claim("a", 1.5, lag=-60.0), claim("b", 1.5, lag=60.0)], [workers(3)]) == {"a": 1, "b": 2}


def test_what_is_out_counts_for_as_long_as_it_is_expected_to_run() -> None:
    short, long = claim("a", 1.0, run=0.01, lead=20.0), claim("b", 1.0, run=0.1)
    assert hand_out([short, long], [workers(2)]) == {"a": 20, "b": 2}


def test_what_one_does_not_want_the_others_have() -> None:
    claims = [claim("a", 1.0, wants=1), claim("b", 5.5), claim("c", 5.5, wants=0)]
    assert hand_out(claims, [workers(12)]) == {"a": 1, "b": 11, "c": 0}


def test_no_place_stays_empty_for_a_queue_that_can_take_no_more() -> None:
    full = Claim("a", 6.0, 0.0, 100.0, 8, 50, 8, 0.1)
    assert hand_out([full, claim("b", 6.0, lag=-100.0)], [workers(12)]) == {"a": 0, "b": 4}


def test_one_is_on_its_way_while_others_have_more_than_their_share() -> None:
    assert hand_out([claim("a", 5.0, out=10), claim("b", 5.0)], [workers(10)]) == {"a": 0, "b": 1}
    assert hand_out([claim("a", 5.0, out=10), claim("b", 5.0, out=1)], [workers(10)]) == {"a": 0, "b": 0}
    ahead = claim("b", 0.5, lag=-9.0)
    assert hand_out([claim("a", 9.5, out=10, lag=9.0), ahead], [workers(10)]) == {"a": 0, "b": 0}


def test_none_is_on_its_way_early_while_the_path_is_probed() -> None:
    """What is sent then must find a slot, also when there are more queues than slots; what is too much ends first."""

    def given(*out: int, probed: bool) -> dict[str, int]:
        return hand_out(
            [Claim(queue, 1 / 3, 0.0, 0.0, each, 9, 1, 0.1, probed) for queue, each in zip("abc", out, strict=True)],
            [workers(1)],
        )

    assert given(1, 1, 0, probed=False) == {"a": 0, "b": 0, "c": 1}
    assert given(1, 1, 0, probed=True) == {"a": 0, "b": 0, "c": 0}
    assert given(0, 0, 0, probed=True) == {"a": 1, "b": 0, "c": 0}
    assert given(5, 0, 1, probed=True) == {"a": 0, "b": 1, "c": 0}


def test_workers_that_serve_some_of_the_queues_count_for_these() -> None:
    groups = [workers(10, "ab"), workers(10, "a")]

    def given(a: int, b: int, wanted: int = 100) -> dict[str, int]:
        return hand_out([claim("a", 15.0, out=a), claim("b", 5.0, out=b, wants=wanted)], groups)

    assert given(0, 0) == {"a": 15, "b": 5}
    assert given(15, 4) == {"a": 0, "b": 1}
    assert given(15, 4, wanted=0) == {"a": 1, "b": 0}
    assert given(20, 0) == {"a": 0, "b": 1}
    assert given(20, 1) == {"a": 0, "b": 0}


def test_too_many_that_wait_for_some_workers_do_not_leave_others_idle() -> None:
    claims = [claim("a", 6.0, out=12), claim("b", 1.0, out=1, wants=0), claim("c", 5.0)]
    assert hand_out(claims, [workers(6, "ab"), workers(6, "bc")]) == {"a": 0, "b": 0, "c": 5}


def test_workers_without_a_queue_in_common_have_places_of_their_own() -> None:
    groups = [workers(4, "a"), workers(4, "b"), workers(4, "cd")]
    claims = [claim("a", 4.0, out=9), claim("b", 4.0), claim("c", 2.0), claim("d")]
    assert hand_out(claims, groups) == {"a": 0, "b": 4, "c": 4, "d": 0}


claims = st.tuples(*(
    st.builds(
        Claim,
        st.just(queue),
        st.floats(0.0, 20.0),
        st.floats(0.0, 10.0),
        st.floats(-600.0, 600.0),
        st.integers(0, 30),
        st.integers(-10, 300),
        st.integers(0, 300),
        st.floats(1e-6, 100.0),
    )
    for queue in QUEUES
))  # fmt: skip


@settings(deadline=None)
@given(claims, st.integers(0, 500))
def test_nobody_has_more_than_it_can_use_and_no_place_is_left_that_somebody_could(
    claims: tuple[Claim, ...], slots: int
) -> None:
    given = hand_out(claims, [workers(slots)])
    places = slots + sum(each.lead - each.out for each in claims)
    room = {each.queue: max(0, min(each.wants, each.most - each.out)) if each.share > 0 else 0 for each in claims}
    assert all(0 <= given[queue] <= room[queue] for queue in QUEUES)
    wanted = min(int(max(places, 0) + 1e-6), sum(room.values()))
    assert wanted <= sum(given.values()) <= max(wanted, 1)


@pytest.mark.parametrize("mistaken", [1.0, 0.2, 5.0])
@pytest.mark.parametrize("picked", ["in order", "at random"])
def test_whatever_workers_take_first_the_shares_of_what_runs_are_exact(picked: str, mistaken: float) -> None:
    """Also when tasks of one queue take much longer than expected, or much less."""
    weights, runs = {"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 3, "b": 2, "c": 7}
    group, dice = workers(2, "abc"), Random(1)
    shares = Shares(weights.__getitem__)
    waiting: deque[str] = deque()
    running: list[tuple[int, str]] = []
    out: Counter[str] = Counter()
    used: Counter[str] = Counter()
    for now in range(20_000):
        for over in [each for each in running if each[0] == now]:
            running.remove(over)
            out[over[1]] -= 1
            used[over[1]] += runs[over[1]]
            shares.used(over[1], runs[over[1]])
        due = shares.divide([group], dict.fromkeys(weights, 1e9), now)
        for queue, count in hand_out(
            [
                Claim(queue, due[queue], 1.5, shares.lag(queue), out[queue], 100, 4, run * (mistaken if run > 3 else 1))
                for queue, run in runs.items()
            ],
            [group],
        ).items():
            waiting.extend([queue] * count)
            out[queue] += count
        while waiting and len(running) < 2:
            if picked == "at random":
                waiting.rotate(dice.randrange(len(waiting)))
            queue = waiting.popleft()
            running.append((now + runs[queue], queue))
    whole = sum(used.values())
    assert whole > 0.999 * 2 * 20_000
    assert {queue: used[queue] / whole for queue in weights} == pytest.approx(
        {"a": 3 / 6, "b": 2 / 6, "c": 1 / 6}, rel=0.01
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.5, 60.0), min_size=2, max_size=4), st.integers(1, 5))
def test_fractions_of_slots_are_made_up_for_in_time(runs: list[float], slots: int) -> None:
    """However long tasks are, and though a few slots are all there is, nobody is ever far from its share."""
    queues = QUEUES[: len(runs)]
    weights = {queue: number + 1.0 for number, queue in enumerate(queues)}
    due = divide([workers(slots)], dict.fromkeys(queues, 1e9), weights.__getitem__)
    shares = Shares(weights.__getitem__)
    ends: list[tuple[float, str]] = []
    out: Counter[str] = Counter()
    used: Counter[str] = Counter()
    now = 0.0
    while now < 200 * max(runs):
        shares.divide([workers(slots)], dict.fromkeys(queues, 1e9), now)
        claims = [
            Claim(queue, due[queue], 0.0, shares.lag(queue), out[queue], 100, int(due[queue]) + 1, run)
            for queue, run in zip(queues, runs, strict=True)
        ]
        for claim, count in zip(claims, hand_out(claims, [workers(slots)]).values(), strict=True):
            out[claim.queue] += count
            ends += [(now + claim.run, claim.queue)] * count
        ends.sort()
        now, queue = ends.pop(0)
        out[queue] -= 1
        run = runs[queues.index(queue)]
        used[queue] += run  # type: ignore[assignment]
        shares.used(queue, run)
    for queue in queues:
        assert abs(used[queue] - due[queue] * now) < (slots + len(queues)) * max(runs)

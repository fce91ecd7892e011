"""One limit: a rate that no span of time exceeds, wherever it begins, and a number of tasks at a time."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.quotas import Quota, Rate, Scope
from scheduler_service.fleet.limits import EXACT, GRAINS, Limit, SlidingWindow

NOW = 1000.0
gaps = st.lists(st.floats(0.0, 3.0, allow_subnormal=False), min_size=1, max_size=60)
rates = st.builds(Rate, st.integers(1, 40), st.sampled_from([0.1, 1.0, 2.5]))


def most_within(moments: list[float], span: float) -> int:
    """The most of `moments` (in order) that lie in one span of that length, wherever it begins.

    A span reaches its most with its end at one of them. It is half open: what went exactly a span ago is out of it.
    """
    return max((within(moments, span, at, number + 1) for number, at in enumerate(moments)), default=0)


def within(moments: list[float], span: float, until: float, first: int | None = None) -> int:
    """How many of `moments` (in order), or of the `first` of them, lie in the span that ends at `until`."""
    first = len(moments) if first is None else first
    return first - bisect_right(moments, until, hi=first, key=lambda at: at + span)


def limited(**more: object) -> Limit:
    return Limit(Quota(scope=Scope.QUEUE, name="q", **more))  # type: ignore[arg-type]


def go(limit: Limit, wanted: int, at: float) -> int:
    """As many of `wanted` as may go."""
    room = limit.room(at)
    count = wanted if room is None else min(wanted, room)
    limit.out += count
    limit.record(count, at)
    return count


@settings(deadline=None)
@given(rates, gaps, st.integers(1, 50))
def test_no_span_has_more_than_the_rate_and_none_that_asks_is_kept_waiting_for_nothing(
    rate: Rate, gaps: list[float], wanted: int
) -> None:
    limit = limited(rate=rate)
    went: list[float] = []
    at = NOW
    for gap in gaps:
        at += gap * rate.per
        before = within(went, rate.per, at)
        count = go(limit, wanted, at)
        assert count == min(wanted, rate.count - before)
        went += [at] * count
    assert most_within(went, rate.per) <= rate.count


@settings(deadline=None)
@given(st.integers(EXACT + 1, 20_000), st.lists(st.tuples(st.floats(0.0, 0.05), st.integers(1, 2000)), max_size=100))
def test_a_large_rate_holds_with_bounded_memory_and_gives_away_a_hundredth_at_most(
    count: int, steps: list[tuple[float, int]]
) -> None:
    limit = limited(rate=Rate(count, 1.0))
    went: list[float] = []
    at = NOW
    for gap, wanted in steps:
        at += gap
        went += [at] * go(limit, wanted, at)
        assert limit.remembered <= GRAINS + 2
    assert most_within(went, 1.0) <= count
    room = limit.room(at)
    assert room is not None
    assert room >= count - within(went, 1.0 + 1.0 / GRAINS + 1e-9, at)


def test_what_is_kept_together_counts_from_the_last_of_it() -> None:
    limit = limited(rate=Rate(2000, 1.0))
    assert [go(limit, count, NOW + at) for count, at in ((1, 0.0), (1999, 0.009))] == [1, 1999]
    assert limit.room(NOW + 1.0085) == 0
    assert limit.room(NOW + 1.0095) == 2000


def test_a_small_rate_is_exact() -> None:
    limit = limited(rate=Rate(3, 10.0))
    assert [go(limit, 9, NOW + at) for at in (0.0, 4.0, 9.999, 10.0, 19.999, 20.0)] == [3, 0, 0, 3, 0, 3]


def test_it_says_when_the_next_may_go() -> None:
    limit = limited(rate=Rate(2, 10.0))
    assert limit.next_free(NOW) is None
    go(limit, 1, NOW)
    go(limit, 1, NOW + 3.0)
    assert limit.next_free(NOW + 4.0) == NOW + 10.0
    assert limit.room(NOW + 10.0) == 1
    limit.pending = 1
    assert limit.room(NOW + 10.0) == 0
    assert limit.next_free(NOW + 10.0) == NOW + 13.0


def test_what_is_about_to_go_counts_as_gone() -> None:
    limit = limited(rate=Rate(5, 1.0))
    limit.pending = 4
    assert limit.room(NOW) == 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 0.7), st.integers(1, 30), st.integers(1, 30) | st.none()), max_size=60),
)
def test_another_number_counts_at_once_with_what_went_before(steps: list[tuple[float, int, int | None]]) -> None:
    """From a change on every span has at most the greater of the numbers that counted in it."""
    limit = limited(rate=Rate(10, 1.0))
    went: list[float] = []
    counts = [(0.0, 10)]
    at = NOW
    for gap, wanted, changed in steps:
        at += gap
        if changed is not None:
            limit.set(Quota(scope=Scope.QUEUE, name="q", rate=Rate(changed, 1.0)))
            counts.append((at, changed))
        count = go(limit, wanted, at)
        went += [at] * count
        in_force = [count for (_, count), (until, _) in pairwise([*counts, (at + 1.0, 0)]) if until > at - 1.0]
        assert most_within([each for each in went if each > at - 1.0], 1.0) <= max(in_force)
        if count:
            assert within(went, 1.0, at) <= counts[-1][1]


@pytest.mark.parametrize(("before", "after"), [(Rate(5000, 1.0), Rate(5, 1.0)), (Rate(5, 1.0), Rate(5000, 1.0))])
def test_a_change_between_small_and_large_keeps_what_went(before: Rate, after: Rate) -> None:
    limit = limited(rate=before)
    gone = go(limit, 5, NOW)
    limit.set(Quota(scope=Scope.QUEUE, name="q", rate=after))
    assert limit.room(NOW + 0.5) == after.count - gone
    assert limit.room(NOW + 1.0) == after.count


def test_a_rate_that_is_taken_away_limits_nothing() -> None:
    limit = limited(rate=Rate(1, 1.0))
    go(limit, 1, NOW)
    limit.set(Quota(scope=Scope.QUEUE, name="q"))
    assert limit.room(NOW) is None
    assert limit.remembered == 0


@settings(deadline=None)
@given(st.integers(1, 20), st.lists(st.integers(-20, 20), max_size=40))
def test_never_more_are_out_than_the_concurrency(most: int, steps: list[int]) -> None:
    limit = limited(concurrency=most)
    for step in steps:
        if step > 0:
            go(limit, step, NOW)
        else:
            limit.out = max(0, limit.out + step)
        assert 0 <= limit.out <= most


def test_less_concurrency_than_is_out_lets_nothing_go_until_enough_has_landed() -> None:
    limit = limited(concurrency=10)
    go(limit, 10, NOW)
    limit.set(Quota(scope=Scope.QUEUE, name="q", concurrency=3))
    assert limit.room(NOW) == 0
    limit.out = 3
    assert limit.room(NOW) == 0
    limit.out = 2
    assert limit.room(NOW) == 1


def test_nothing_of_what_is_paused_goes_and_time_alone_changes_nothing() -> None:
    limit = limited(paused=True, rate=Rate(1, 1.0))
    assert limit.room(NOW) == 0
    assert limit.next_free(NOW) is None


def test_the_least_of_rate_and_concurrency_counts() -> None:
    assert limited(rate=Rate(5, 1.0), concurrency=3).room(NOW) == 3
    assert limited(rate=Rate(3, 1.0), concurrency=5).room(NOW) == 3


def test_a_clock_that_stands_still_or_goes_back_lets_no_more_go() -> None:
    window = SlidingWindow(Rate(2, 1.0))
    window.record(1, NOW)
    window.record(1, NOW - 3600.0)
    assert window.used(NOW + 0.5) == 2
    assert window.used(NOW - 3600.0) == 2

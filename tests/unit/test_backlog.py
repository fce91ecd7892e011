"""The numbers of queued tasks by lane, and the bound on how many lanes are told apart."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.fleet.backlog import OVERFLOW, Backlog, Found
from scheduler_service.fleet.lanes import Lane, lane
from tests.support.fleet import of

lanes = st.builds(
    of, st.sampled_from("qr"), st.sampled_from(["", "a", "b"]), priority=st.integers(0, 2), task=st.sampled_from("tu")
)


@settings(deadline=None)
@given(st.lists(st.tuples(lanes, st.integers(-5, 9)), max_size=60))
def test_the_numbers_are_right_whatever_comes_and_goes(changes: list[tuple[Lane, int]]) -> None:
    backlog = Backlog()
    counts: Counter[Lane] = Counter()
    for where, count in changes:
        backlog.add(where, count)
        counts[where] = max(0, counts[where] + count)
        counts += Counter()
        totals: Counter[str] = Counter()
        for each, number in counts.items():
            totals[each.queue] += number
        assert {each: backlog.count(each) for each in counts} == counts
        assert dict(backlog.totals()) == totals
        assert {waiting.lane: waiting.count for queue in "qr" for waiting in backlog.lanes(queue)} == counts
        assert len(backlog) == len(counts)
        assert {queue: backlog.keyed(queue) for queue in "qr"} == {
            queue: any(each.queue == queue and each.key for each in counts) for queue in "qr"
        }
        flows = [flow for queue in "qr" for level in backlog.levels(queue).values() for flow in level.flows.values()]
        assert sum(flow.count for flow in flows) == sum(counts.values())


def test_a_claim_that_found_fewer_than_it_wanted_says_that_none_is_left() -> None:
    backlog = Backlog()
    some, more = of(task="t"), of(task="u")
    backlog.add(some, 5)
    backlog.add(more, 5)
    backlog.settle([some, more], 4, {some.number: 3, more.number: 1})
    assert (backlog.count(some), backlog.count(more)) == (2, 4)
    backlog.settle([some, more], 4, {more.number: 3})
    assert backlog.total("q") == 0


def test_the_oldest_is_known_as_far_as_claims_have_said() -> None:
    backlog = Backlog()
    where = of()
    backlog.add(where, 5, 100.0)
    backlog.add(where, 5, 50.0)
    backlog.add(where, 5, 200.0)
    assert backlog.oldest("q") == 50.0
    backlog.settle([where], 3, {where.number: 3}, {where.number: 120.0})
    assert backlog.oldest("q") == 120.0
    assert backlog.oldest("r") is None


def test_what_the_store_says_replaces_what_was_thought() -> None:
    backlog = Backlog()
    backlog.add(of(key="a"), 5)
    backlog.add(of(key="b"), 5)
    backlog.replace([Found(of(key="b"), 2, 7.0), Found(of("r"), 1)])
    assert dict(backlog.totals()) == {"q": 2, "r": 1}
    assert backlog.oldest("q") == 7.0


# --- the bound -------------------------------------------------------------------------------------------------------


def placed(backlog: Backlog, *wanted: Lane) -> list[Lane]:
    """Where tasks of these lanes are stored, one after the other."""
    found = []
    for each in wanted:
        place = backlog.place(each)
        backlog.add(place, 1)
        found.append(place)
    return found


def keys(count: int, start: int = 0) -> list[Lane]:
    return [of(key=f"key-{number}") for number in range(start, start + count)]


def test_beyond_max_lanes_tasks_of_new_keys_share_a_lane() -> None:
    backlog = Backlog(max_lanes=10)
    found = placed(backlog, *keys(100))
    assert found[:10] == keys(10)
    assert set(found[10:]) == {lane("q", 4, "t", OVERFLOW)}
    assert (len(backlog), backlog.total("q")) == (11, 100)
    assert placed(backlog, *keys(5)) == keys(5)  # those that are known keep theirs


def test_overflow_lanes_keep_queue_priority_function_and_labels() -> None:
    backlog = Backlog(max_lanes=4)
    placed(backlog, *keys(4))
    for wanted in (of("r", "b"), of(key="b", priority=9), of(key="b", task="u"), of(key="b", requires=["gpu"])):
        (place,) = placed(backlog, wanted)
        kept = (wanted.queue, wanted.priority, wanted.task, wanted.requires)
        assert (place.queue, place.priority, place.task, place.requires, place.key) == (*kept, OVERFLOW)


def test_beyond_twice_as_many_functions_share_lanes_and_still_only_who_has_the_labels_gets_them() -> None:
    backlog = Backlog(max_lanes=4)
    placed(backlog, *keys(4), *(of(key="b", task=f"task-{number}") for number in range(4)))
    for requires in ([], ["gpu"]):
        wanted = of(key="b", task="new", requires=requires)
        (place,) = placed(backlog, wanted)
        assert (place.task, place.key, place.requires) == ("", OVERFLOW, tuple(requires))
        assert Backlog().resolve(place.number, wanted) == place


def test_there_is_room_again_when_lanes_are_empty() -> None:
    backlog = Backlog(max_lanes=2)
    placed(backlog, *keys(2))
    backlog.add(keys(1)[0], -1)
    assert placed(backlog, *keys(1, start=7)) == keys(1, start=7)


def test_lanes_with_limits_of_their_own_have_room_for_longer_so_that_the_limits_hold() -> None:
    backlog = Backlog(max_lanes=5, has_quota=lambda lane: lane.key.endswith("7"))
    placed(backlog, *keys(7))
    assert placed(backlog, *keys(1, start=7)) == keys(1, start=7)


def test_lanes_of_one_batch_count_before_they_are_stored() -> None:
    backlog = Backlog(max_lanes=5)
    assert backlog.place(of(key="a"), 4) == of(key="a")
    assert backlog.place(of(key="a"), 5).key == OVERFLOW


def test_however_many_functions_there_are_the_lanes_are_bounded() -> None:
    backlog = Backlog(max_lanes=10)
    placed(backlog, *(of(key=f"key-{number}", task=f"task-{number}") for number in range(1000)))
    assert len(backlog) <= 2 * 10 + 1
    assert backlog.total("q") == 1000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("tu"), st.integers(0, 2)), max_size=80))
def test_a_restart_finds_every_task_in_the_lane_under_which_it_is_stored(tasks: list[tuple[int, str, int]]) -> None:
    before = Backlog(max_lanes=5)
    wanted = [of(key=f"key-{key}", task=task, priority=priority) for key, task, priority in tasks]
    stored = Counter(place.number for place in placed(before, *wanted))
    actual = {place.number: each for place, each in zip([before.place(each) for each in wanted], wanted, strict=True)}
    after = Backlog(max_lanes=5)
    # The store tells of each number what its first task is by itself.
    after.replace(
        Found(after.resolve(number, actual.get(number, wanted[0])), count) for number, count in stored.items()
    )
    assert {each.lane.number: each.count for each in after.lanes("q")} == stored
    assert {each.lane.number: each.lane.priority for each in after.lanes("q")} == {
        each.lane.number: each.lane.priority for each in before.lanes("q")
    }

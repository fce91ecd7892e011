"""Which dispatches travel together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from common.wire import Assignment, Bundle, Isolation, encode
from scheduler_service.bundles import pack
from scheduler_service.fleet.window import BUNDLE_BYTES
from scheduler_service.storage.claims import ClaimedTask


def claimed(
    number: int, queue: str = "default", priority: int = 4, size: int = 2, isolation: Isolation = Isolation.NONE
) -> ClaimedTask:
    args = Raw(b"[" + b" " * (size - 2) + b"]")
    return ClaimedTask(
        Assignment(f"{number}", "add", f"lease-{number}", 1, args, isolation=isolation), queue, priority, 0.0, number
    )


def numbers(bundles: list[list[ClaimedTask]]) -> list[list[int]]:
    return [[task.number for task in bundle] for bundle in bundles]


def test_nothing_makes_no_bundle() -> None:
    assert list(pack([], {})) == []


def test_a_bundle_holds_as_many_as_its_queue_allows_in_the_order_given() -> None:
    tasks = [claimed(n) for n in range(5)]
    assert numbers(list(pack(tasks, {"default": 2}))) == [[0, 1], [2, 3], [4]]


def test_without_a_limit_each_travels_by_itself() -> None:
    assert numbers(list(pack([claimed(0), claimed(1)], {}))) == [[0], [1]]


def test_queues_and_priorities_do_not_share_a_bundle() -> None:
    tasks = [claimed(0), claimed(1, "email"), claimed(2, priority=9), claimed(3), claimed(4, "email")]
    assert sorted(numbers(list(pack(tasks, {"default": 10, "email": 10})))) == [[0, 3], [1, 4], [2]]


def test_a_full_bundle_does_not_overtake_a_higher_priority() -> None:
    tasks = [claimed(0, priority=9), claimed(1), claimed(2), claimed(3, priority=0), claimed(4, priority=9)]
    assert numbers(list(pack(tasks, {"default": 2}))) == [[0, 4], [1, 2], [3]]
    assert numbers(list(pack(tasks[:3], {"default": 2}))) == [[0], [1, 2]]


def test_a_suspect_travels_alone_and_does_not_part_the_others() -> None:
    tasks = [claimed(0), claimed(1, isolation=Isolation.CHILD), claimed(2), claimed(3, isolation=Isolation.ALONE)]
    assert sorted(numbers(list(pack(tasks, {"default": 10})))) == [[0, 2], [1], [3]]


def test_a_bundle_stays_below_its_size() -> None:
    third = BUNDLE_BYTES // 3
    assert numbers(list(pack([claimed(n, size=third) for n in range(4)], {"default": 10}))) == [[0, 1], [2, 3]]


def test_one_large_task_travels_alone_all_the_same() -> None:
    tasks = [claimed(0), claimed(1, size=2 * BUNDLE_BYTES), claimed(2)]
    assert numbers(list(pack(tasks, {"default": 10}))) == [[0], [1], [2]]


any_task = st.builds(
    claimed,
    number=st.integers(0, 10**6),
    queue=st.sampled_from(["default", "email"]),
    priority=st.sampled_from([4, 9]),
    size=st.sampled_from([2, 1000, 60_000, 300_000]),
    isolation=st.sampled_from(Isolation),
)


@given(st.lists(any_task, max_size=40), st.integers(1, 10))
def test_every_task_travels_once_and_no_bundle_breaks_a_rule(tasks: list[ClaimedTask], limit: int) -> None:
    for number, task in enumerate(tasks):
        task.number = number
    bundles = list(pack(tasks, {"default": limit, "email": limit}))
    assert sorted(task.number for bundle in bundles for task in bundle) == sorted(task.number for task in tasks)
    for bundle in bundles:
        assert 1 <= len(bundle) <= limit
        assert len({(task.queue, task.priority) for task in bundle}) == 1
        assert len(bundle) == 1 or {task.assignment.isolation for task in bundle} == {Isolation.NONE}
        if len(bundle) > 1:
            assert len(encode(Bundle(bundle[0].queue, [task.assignment for task in bundle]))) <= BUNDLE_BYTES + 100
    priorities = [bundle[0].priority for bundle in bundles]
    assert priorities == sorted(priorities, reverse=True)
    order = [task.number for bundle in bundles for task in bundle if task.assignment.isolation is Isolation.NONE]
    for key in {(task.queue, task.priority) for task in tasks}:
        mine = [
            task.number
            for task in tasks
            if (task.queue, task.priority) == key and task.assignment.isolation is Isolation.NONE
        ]
        assert [number for number in order if number in mine] == mine

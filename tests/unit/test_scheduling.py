"""How a fleet is scheduled, under a fake clock: shares, limits, order, waiting times. See docs/scheduling.md."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from functools import partial
from itertools import pairwise
from random import Random
from statistics import mean

import pytest

from common.quotas import Quota, Rate, Scope
from tests.support.fleet import START, Fleet, Job, of
from tests.support.prefetching import PrefetchingFleet
from tests.support.scheduling import all_at_once, over_time, small_tenant, with_competing_consumers, with_warren
from tests.support.shares import CONTESTS, Contest

# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "slots", "run", "seconds"),
    [
        ({"a": 1.0, "b": 1.0}, 10, 0.05, 12.0),
        ({"a": 3.0, "b": 1.0}, 10, 0.05, 12.0),
        ({"a": 5.0, "b": 3.0, "c": 2.0, "d": 0.5}, 10, 0.05, 12.0),
        ({"a": 3.0, "b": 1.0}, 2, 0.1, 100.0),
    ],
)
def test_shares_of_keys_match_their_weights_within_two_percent(
    weights: dict[str, float], slots: int, run: float, seconds: float
) -> None:
    fleet = Fleet()
    fleet.worker(slots)
    for key, weight in weights.items():
        fleet.limit(Scope.KEY, key, weight=weight)
    for key in weights:
        fleet.submit(of(key=key), *[run] * int(slots * seconds / run))
    fleet.run(seconds)
    shares = Counter(job.lane.key for job in fleet.done if job.started > START + seconds / 10)
    expected = {key: weight / sum(weights.values()) * shares.total() for key, weight in weights.items()}
    assert shares == {key: pytest.approx(share, rel=0.02) for key, share in expected.items()}


@pytest.mark.parametrize(
    ("weights", "slots", "runs", "seconds"),
    [
        ({"a": 1.0, "b": 1.0}, 10, {}, 15.0),
        ({"a": 3.0, "b": 1.0}, 10, {}, 15.0),
        ({"a": 5.0, "b": 3.0, "c": 2.0}, 4, {}, 50.0),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 1, {}, 100.0),
        ({"a": 3.0, "b": 1.0}, 2, {"b": 2.0}, 150.0),
    ],
)
def test_shares_of_queues_match_their_weights_within_two_percent(
    weights: dict[str, float], slots: int, runs: dict[str, float], seconds: float
) -> None:
    """Of the time of the slots, however long the tasks of each are; and hardly any of it is idle."""
    fleet = Fleet()
    fleet.worker(slots, *weights)
    for queue, weight in weights.items():
        fleet.limit(Scope.QUEUE, queue, weight=weight)
    for queue in weights:
        run = runs.get(queue, 0.1)
        fleet.submit(of(queue, task=f"t{queue}"), *[run] * int(slots * seconds / run))
    fleet.run(seconds)
    used: Counter[str] = Counter()
    for job in fleet.done:
        if job.started > START + seconds / 10:
            used[job.lane.queue] += job.ended - job.started  # type: ignore[assignment]
    whole = sum(used.values())
    expected = {queue: weight / sum(weights.values()) * whole for queue, weight in weights.items()}
    assert used == {queue: pytest.approx(share, rel=0.02) for queue, share in expected.items()}
    assert whole > 0.97 * 0.9 * slots * seconds


@pytest.mark.parametrize("pace", [(0.001, 0.001, 0.1), (0.003, 0.003, 0.1), (0.008, 0.008, 0.5)], ids=str)
@pytest.mark.parametrize("contest", CONTESTS, ids=str)
def test_shares_of_queues_match_whatever_workers_take_ahead(
    contest: Contest, pace: tuple[float, float, float]
) -> None:  # fmt: skip
    """Workers have a prefetch for each queue and run what came first; messages and commits take their time."""
    path, commit, spread = pace
    fleet = PrefetchingFleet(path, commit, spread)
    for _ in range(contest.workers):
        fleet.worker(contest.slots, *contest.weights)
    for queue, weight in contest.weights.items():
        fleet.limit(Scope.QUEUE, queue, weight=weight)
    for queue, count in contest.enough(23.0).items():
        fleet.submit(of(queue, task=f"t{queue}"), *[contest.runs[queue]] * count)
    fleet.run(23.0)
    used = dict.fromkeys(contest.weights, 0.0)
    for job in fleet.done:
        if job.ended > START + 3.0:
            used[job.lane.queue] += job.ended - job.started
    whole = sum(used.values())
    assert used == {queue: pytest.approx(due * whole, rel=0.01) for queue, due in contest.due.items()}
    assert fleet.returned <= 1


def worst_of(fleet: Fleet, weights: dict[str, float], since: float, until: float) -> tuple[float, float, float]:
    """Of any 30 s (whole seconds): by what part of its share a queue was off at most, and the least that was busy.

    And the longest time that a queue had no task at all.
    """
    had: dict[int, Counter[str]] = defaultdict(Counter)
    ends = {queue: [START + since] for queue in weights}
    for job in fleet.done:
        had[int(job.ended - START)][job.lane.queue] += job.ended - job.started  # type: ignore[assignment]
        if since < job.ended - START < until:
            ends[job.lane.queue].append(job.ended)
    off, busy = 0.0, 1.0
    for first in range(int(since), int(until) - 29):
        used = {queue: sum(had[second][queue] for second in range(first, first + 30)) for queue in weights}
        whole, weight = sum(used.values()), sum(weights.values())
        off = max(off, *(abs(used[queue] / whole * weight / weights[queue] - 1) for queue in weights))
        busy = min(busy, whole / 30 / sum(machine.slots for machine in fleet.machines))
    return off, busy, max(b - a for each in ends.values() for a, b in pairwise([*each, START + until]))


def shared_by_three(fleet: Fleet, order: str, apart: float, seconds: float) -> dict[str, float]:
    """Two slots, and three queues of 50 ms tasks that come one after the other; returns their weights."""
    weights = {"a": 3.0, "b": 2.0, "c": 1.0}
    fleet.worker(2, *weights)
    for queue, weight in weights.items():
        fleet.limit(Scope.QUEUE, queue, weight=weight)
    for number, queue in enumerate(order):
        tasks = [0.05] * int(seconds * 40 * weights[queue] / 6 * 1.2)
        fleet.after(number * apart, partial(fleet.submit, of(queue, task=f"t{queue}"), *tasks))
    return weights


@pytest.mark.parametrize(
    ("path", "order", "since"),
    [
        *((0.1, order, 90.0) for order in ("acb", "cba")),
        *((0.3, order, 90.0) for order in ("abc", "bca")),
        (1.0, "bca", 95.0),
    ],
)
def test_a_path_that_was_slow_in_the_first_second_is_forgotten(path: float, order: str, since: float) -> None:
    """It was that of the first queue that came, and others never had a slot waiting for them to tell better.

    The longer it was, the longer takes what is out because of it, and what is then made up for.
    """
    fleet = PrefetchingFleet(path)
    weights = shared_by_three(fleet, order, 0.3, 126.0)
    fleet.after(1.0, lambda: setattr(fleet, "path", 0.003))
    fleet.run(126.0)
    off, busy, longest = worst_of(fleet, weights, since, 126.0)
    assert off < 0.02
    assert busy > 0.95
    assert longest < 1.0
    assert fleet.rooms.window("a", fleet.now).tasks < 10


def test_a_path_that_was_slow_at_first_is_forgotten_when_queues_are_more_than_slots() -> None:
    fleet = PrefetchingFleet(0.1)
    fleet.worker(1, *"abc")
    for number, queue in enumerate("abc"):
        fleet.after(number * 0.3, partial(fleet.submit, of(queue, task=f"t{queue}"), *[0.05] * 1000))
    fleet.after(1.0, lambda: setattr(fleet, "path", 0.003))
    fleet.run(125.0)
    off, busy, longest = worst_of(fleet, dict.fromkeys("abc", 1.0), 90.0, 125.0)
    assert off < 0.02
    assert busy > 0.95
    assert longest < 1.0


@pytest.mark.parametrize("path", [0.1, 0.3])
def test_queues_that_share_workers_notice_a_path_that_becomes_slow(path: float) -> None:
    fleet = Fleet(path=0.003)
    weights = shared_by_three(fleet, "cba", 0.3, 206.0)
    fleet.after(45.0, lambda: setattr(fleet, "path", path))
    fleet.run(206.0)
    assert worst_of(fleet, weights, 5.0, 45.0)[0] < 0.02
    off, busy, longest = worst_of(fleet, weights, 147.0, 206.0)
    assert off < 0.02
    assert busy > 0.95
    assert longest < 2.0


@pytest.mark.parametrize("run", [0.02, 0.1, 2.0])
@pytest.mark.parametrize(
    ("groups", "due"),
    [
        ((("ab", 10), ("a", 10)), {"a": 15, "b": 5}),
        ((("ab", 6), ("bc", 6)), {"a": 3, "b": 6, "c": 3}),
        ((("a", 5), ("b", 3)), {"a": 5, "b": 3}),
    ],
    ids=["all of one", "a chain", "apart"],
)
def test_queues_that_share_some_of_their_workers_have_their_part_of_these(
    groups: tuple[tuple[str, int], ...], due: dict[str, float], run: float
) -> None:
    fleet = Fleet()
    for queues, slots in groups:
        fleet.worker(slots, *queues)
    seconds = 100 * run + 5.0
    for queue in due:
        fleet.submit(of(queue, task=f"t{queue}"), *[run] * int(20 * 1.2 * seconds / run))
    fleet.run(seconds)
    used = Counter(job.lane.queue for job in fleet.done)
    assert {queue: each * run / seconds for queue, each in used.items()} == {
        queue: pytest.approx(each, rel=0.12 if run > 1 else 0.03) for queue, each in due.items()
    }
    assert fleet.used.total() > 0.95 * sum(slots for _, slots in groups) * (seconds - run)


def test_no_slot_is_idle_for_a_queue_that_is_behind_and_has_nothing_to_run() -> None:
    """One is held back by its concurrency, one comes and goes; the third has whatever they leave, and owes nothing."""
    fleet = PrefetchingFleet()
    fleet.worker(4, "a", "b", "c")
    fleet.limit(Scope.QUEUE, "a", weight=10.0, concurrency=1)
    fleet.limit(Scope.QUEUE, "b", weight=10.0)
    fleet.submit(of("a", task="ta"), *[0.1] * 1000)
    fleet.submit(of("c", task="tc"), *[0.1] * 3000)
    fleet.run(10.0)
    assert sum(fleet.used.values()) > 0.97 * 4 * 10.0
    fleet.submit(of("b", task="tb"), *[0.1] * 3000)
    fleet.run(20.0)
    before = Counter(fleet.used)
    fleet.run(80.0)
    had = {queue: (fleet.used[queue] - before[queue]) / 60.0 for queue in "abc"}
    assert had["b"] / had["c"] == pytest.approx(10.0, rel=0.05), "what it did not ask for before is not made up for"
    assert sum(had.values()) > 0.97 * 4


def test_places_that_a_queue_cannot_fill_after_all_are_filled_by_another() -> None:
    """All its tasks have a key whose concurrency is used up, which is known only once they have been looked at."""
    fleet = Fleet()
    fleet.worker(2, "a", "b")
    fleet.limit(Scope.KEY, "k", concurrency=1)
    fleet.limit(Scope.QUEUE, "a", weight=100.0)
    fleet.submit(of("a", key="k", task="ta"), *[10.0] * 9)
    fleet.submit(of("b", task="tb"), *[10.0] * 9)
    fleet.run(1.0)
    assert Counter(job.lane.queue for job in fleet.sent) == {"a": 1, "b": 1}


def test_what_one_queue_does_not_use_the_others_have() -> None:
    fleet = Fleet()
    fleet.worker(10, "a", "b")
    fleet.submit(of("a"), *[0.1] * 2000)
    for second in range(10):
        fleet.after(float(second), lambda: fleet.submit(of("b"), *[0.1] * 5))
    fleet.run(10.0)
    assert len(fleet.done) > 0.97 * 1000
    late = [job for job in fleet.done if job.lane.queue == "b" and job.waited > 0.3]
    assert late == []


def test_a_weight_that_is_changed_counts_within_a_second() -> None:
    fleet = Fleet()
    fleet.worker(10, "a", "b")
    for queue in "ab":
        fleet.submit(of(queue, task=f"t{queue}"), *[0.1] * 4000)
    fleet.run(10.0)
    fleet.limit(Scope.QUEUE, "a", weight=4.0)
    fleet.run(11.0)
    fleet.run(31.0)
    shares = Counter(job.lane.queue for job in fleet.done if job.started > START + 11.0)
    assert shares["a"] == pytest.approx(0.8 * shares.total(), rel=0.02)


# --- limits ----------------------------------------------------------------------------------------------------------


def most_within(moments: list[float], span: float) -> int:
    """The most of `moments` (in order) in one span of that length, wherever it begins."""
    spans = (number + 1 - bisect_right(moments, at, key=lambda each: each + span) for number, at in enumerate(moments))
    return max(spans, default=0)


def most_at_a_time(jobs: list[Job], path: float) -> int:
    """The most of `jobs` that were out at a time, from their dispatch until their end was applied."""
    steps = sorted([(job.sent, 1) for job in jobs] + [(job.ended + path, -1) for job in jobs if job.ended])
    most = out = 0
    for _, step in steps:
        out += step
        most = max(most, out)
    return most


LIMITED = {Scope.QUEUE: "q", Scope.TASK: "t", Scope.KEY: "a"}


def limited(fleet: Fleet, scope: Scope) -> list[Job]:
    """The dispatched tasks that a limit of `LIMITED` is about."""
    names = {Scope.QUEUE: "queue", Scope.TASK: "task", Scope.KEY: "key"}
    return [job for job in fleet.sent if getattr(job.wanted, names[scope]) == LIMITED[scope]]


@pytest.mark.parametrize("seed", range(8))
def test_limits_are_never_exceeded_whatever_happens(seed: int) -> None:
    """A queue, a function and a key have limits; load comes in bursts, the scheduler is killed, the clock set back."""
    dice = Random(seed)
    fleet = Fleet()
    for _ in range(3):
        fleet.worker(dice.randint(1, 20), *dice.choice([("q",), ("q", "r")]), labels=dice.choice([[], ["gpu"]]))
    rates = {scope: Rate(dice.randint(1, 30), dice.choice([0.5, 2.0])) for scope in Scope}
    most = {scope: dice.randint(1, 20) for scope in Scope}
    for scope, name in LIMITED.items():
        fleet.limit(scope, name, rate=rates[scope], concurrency=most[scope])

    def burst() -> None:
        for _ in range(dice.randint(1, 5)):
            key, task, requires = dice.choice(["", "a", "b"]), dice.choice("tu"), dice.choice([(), (), ("gpu",)])
            where = of(dice.choice("qr"), key, priority=dice.randint(3, 5), task=task, requires=requires)
            fleet.submit(where, *[dice.choice([0.0, 0.01, 0.3])] * dice.randint(1, 40))

    def kill() -> None:
        fleet.stop()
        fleet.wall_ahead -= dice.choice([0.0, 0.0, 3600.0])
        fleet.after(dice.choice([0.0, 0.1, 1.0]), fleet.start)

    at = 0.0
    while at < 20.0:
        at += dice.uniform(0.0, 1.0)
        fleet.after(at, lambda: burst() if fleet.up else None)
        if dice.random() < 0.25:
            fleet.after(at, lambda: kill() if fleet.up else None)
    fleet.run(30.0)
    assert len(fleet.done) > 30
    for scope in Scope:
        jobs = limited(fleet, scope)
        assert most_within([job.sent for job in jobs], rates[scope].per) <= rates[scope].count
        assert most_at_a_time(jobs, fleet.path) <= most[scope]


@pytest.mark.parametrize("rate", [Rate(7, 1.0), Rate(1500, 1.0)])
def test_a_rate_is_used_up(rate: Rate) -> None:
    fleet = Fleet()
    fleet.worker(1000)
    fleet.limit(Scope.QUEUE, "q", rate=rate)
    fleet.submit(of(), *[0.0] * 10_000)
    fleet.run(2.99)
    assert most_within([job.sent for job in fleet.sent], 1.0) <= rate.count
    assert len(fleet.sent) == pytest.approx(3 * rate.count, rel=0.02)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_wall_clock_that_is_set_while_it_runs_changes_no_limit(step: float) -> None:
    fleet = Fleet()
    fleet.worker(100)
    fleet.limit(Scope.QUEUE, "q", rate=Rate(10, 1.0))
    fleet.submit(of(), *[0.0] * 1000)
    fleet.run(2.5)
    fleet.wall_ahead += step
    fleet.run(10.0 - 0.01)
    assert most_within([job.sent for job in fleet.sent], 1.0) == 10
    assert len(fleet.sent) == 100


def test_limits_that_are_changed_while_it_runs_count_at_once() -> None:
    fleet = Fleet()
    fleet.worker(100)
    fleet.submit(of(), *[0.5] * 10_000)
    changes = [(2.0, 20, 50), (4.0, 5, 50), (6.0, 40, 10), (8.0, 40, 3), (10.0, 40, 60)]
    for at, count, concurrency in changes:
        quota = Quota(scope=Scope.QUEUE, name="q", rate=Rate(count, 1.0), concurrency=concurrency)
        fleet.run(at)
        fleet.limit(quota.scope, quota.name, rate=quota.rate, concurrency=quota.concurrency)
        fleet.run(at + 1.999)
        # Nothing goes before what went earlier leaves room, so each whole span after the change is within it.
        after = [job.sent for job in fleet.sent if job.sent > START + at]
        assert 0 < most_within(after, 1.0) <= count
        out = [job for job in fleet.sent if not job.ended or job.ended > START + at + 1.5]
        assert most_at_a_time(out, fleet.path) <= concurrency or at == 2.0


# --- the window ------------------------------------------------------------------------------------------------------


def test_the_window_of_a_queue_that_is_never_at_rest_does_not_grow() -> None:
    fleet = Fleet()
    fleet.worker(4)
    fleet.submit(of(), *[0.1] * 13_000)
    fleet.run(30.0)
    window = fleet.rooms.window("q", fleet.now)
    fleet.run(300.0)
    assert fleet.rooms.window("q", fleet.now) == window
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


# --- waiting times ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [10, 4])
@pytest.mark.parametrize("run", [1.0, 0.1, 0.01, 0.001])
def test_a_small_tenant_has_its_results_within_twice_the_time_of_an_idle_system(run: float, slots: int) -> None:
    alone = small_tenant(run, backlog=0, slots=slots, tries=5)
    beside = small_tenant(run, backlog=30_000, slots=slots, tries=5)
    assert beside.turnaround < 2 * alone.turnaround


def test_a_small_tenant_has_its_results_soon_beside_a_backlog_without_keys() -> None:
    fleet = Fleet()
    fleet.worker(4)
    fleet.submit(of(), *[0.001] * 10_000)
    fleet.run(0.5)
    jobs = fleet.submit(of(key="small"), *[0.001] * 10)
    fleet.run_until(lambda: all(job.ended for job in jobs))
    assert max(job.ended - job.submitted for job in jobs) < 0.01


def test_what_new_keys_overtake_is_run_in_time_however_many_come() -> None:
    """Each task has a key of its own, beside a backlog: for seconds, all that goes comes anew."""
    fleet = PrefetchingFleet(path=0.001, commit=0.001)
    for _ in range(2):
        fleet.worker(5)
    fleet.submit(of(key="large"), *[0.02] * 3000)
    fleet.run(1.0)
    before = fleet.used.total()
    for number in range(1350):
        fleet.after(number / 450, partial(fleet.submit, of(key=f"k{number}"), 0.02))
    fleet.run(3.0)
    express = sum(job.express for job in fleet.done)
    assert 0 < express < 0.26 * len(fleet.done)
    assert max(job.started - job.sent for job in fleet.done) < 0.08
    assert fleet.returned == 0
    assert fleet.used.total() - before > 0.95 * 10 * 2.0


def test_new_keys_do_not_take_more_than_the_share_of_their_queue() -> None:
    """A tenth of the slots is due to the queue in which keys come and go."""
    fleet = Fleet()
    fleet.worker(10, "a", "b")
    fleet.limit(Scope.QUEUE, "a", weight=9.0)
    fleet.submit(of("a", task="ta"), *[0.01] * 12_000)
    fleet.submit(of("b", "large", task="tb"), *[0.01] * 3000)
    for number in range(500):
        fleet.after(0.02 * number, partial(fleet.submit, of("b", f"k{number}", task="tb"), *[0.01] * 5))
    fleet.run(10.0)
    assert any(job.express for job in fleet.done)
    assert fleet.used["b"] / fleet.used.total() == pytest.approx(0.1, rel=0.02)


def test_tasks_without_a_key_wait_behind_the_whole_backlog() -> None:
    fleet = Fleet()
    fleet.worker(10)
    fleet.submit(of(), *[0.1] * 5000)
    (late,) = fleet.submit(of(task="u"), 0.1)
    fleet.run_until(lambda: late.started > 0)
    assert late.waited == pytest.approx(50.0, rel=0.02)


# --- short and long tasks, fast and slow workers ---------------------------------------------------------------------


def test_a_mix_is_near_the_ideal_assignment_and_nearer_than_competing_consumers() -> None:
    arrivals = all_at_once(4000, 100)
    warren = with_warren(arrivals)
    assert len(warren.short) + len(warren.long) == len(arrivals)
    assert warren.over < 0.07
    for prefetch in (1, 50):
        assert with_competing_consumers(arrivals, prefetch).over > warren.over


def test_short_tasks_wait_no_longer_than_with_competing_consumers() -> None:
    arrivals = over_time(30.0, 0.7)
    warren = with_warren(arrivals)
    for prefetch in (1, 50):
        assert mean(warren.short) <= mean(with_competing_consumers(arrivals, prefetch).short) + 0.001

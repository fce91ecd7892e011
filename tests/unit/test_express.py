"""What may go past the window, to which worker, and what it never overtakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import pytest

from common.quotas import Rate, Scope
from common.wire import Assignment, Beat
from scheduler_service.fleet.backlog import OVERFLOW
from scheduler_service.fleet.capability import Ability, Serves
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.express import HORIZON, MOST, RARITY, Express, Line
from scheduler_service.fleet.fairness import Flow, Waiting
from scheduler_service.fleet.hand import Hand
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.storage.tasks import Placement
from tests.support.fleet import START, Fleet, Job, of
from tests.support.prefetching import PrefetchingFleet

NOW = 1000.0


def beat(worker: str, queue: str = "q", *, direct: bool = True) -> Beat:
    return Beat(worker, 1, [queue], 10, [], [], direct=direct)


def known(*beats: Beat) -> Express:
    directory = Directory(1e9)
    for each in beats:
        directory.hear(each, NOW)
    return Express(directory)


# --- how many to which worker ----------------------------------------------------------------------------------------


def test_a_worker_is_sent_what_it_finishes_in_a_horizon() -> None:
    express = known(beat("fast"), beat("slow"))
    express.finished("fast", 500, NOW)
    express.finished("slow", 50, NOW)
    rooms = express.rooms("q", NOW)
    assert rooms == {"fast": MOST, "slow": int(2 * 50 * HORIZON)}


def test_a_worker_that_finishes_nothing_is_sent_nothing() -> None:
    express = known(beat("new"), beat("held-up"))
    express.finished("held-up", 500, NOW - 1.0)
    assert express.rooms("q", NOW) == {}


def test_only_those_that_serve_the_queue_and_have_one_of_their_own_are_sent_any() -> None:
    express = known(beat("elsewhere", "r"), beat("shared-only", direct=False))
    express.finished("elsewhere", 500, NOW)
    express.finished("shared-only", 500, NOW)
    express.finished("forged", 500, NOW)
    assert express.rooms("q", NOW) == {}


def test_what_is_out_and_what_was_used_up_lessen_it() -> None:
    express = known(beat("w"))
    express.finished("w", 500, NOW)
    express.taken("w", 20)
    assert express.rooms("q", NOW) == {}
    for _ in range(20):
        express.landed("w")
    assert express.rooms("q", NOW) == {}, "they are over, and those that they overtook are not"
    express.finished("w", 3 * RARITY, NOW)
    assert express.rooms("q", NOW) == {"w": 3}


def test_of_workers_that_are_gone_nothing_is_kept() -> None:
    express = known(beat("gone"))
    express.finished("gone", 100, NOW)
    express._directory.workers.clear()
    express._directory.hear(beat("new"), NOW)
    express.finished("new", 100, NOW)
    assert set(express._workers) == {"new"}


def test_tasks_are_spread_over_the_workers_by_their_room() -> None:
    rooms = {"a": 5, "b": 3, "c": 1}
    hand = Hand(lambda worker: 0, Ledger()).express(rooms)
    lane = of()
    waiting = Waiting(lane, 100)
    flow = Flow("", {lane.number: waiting}, 0.0, count=100)
    assert hand.merge(flow, [waiting], 4) == 4
    assert Counter({turn.worker: turn.count for turn in hand.turns()}) == Counter(a=3, b=1)
    assert hand.best_of(Ability(Serves.SOME, ("a", "c"))) == "a"
    hand.apart(waiting, 2, "a")
    assert hand.best_of(Ability(Serves.SOME, ("a", "c"))) == "c"
    assert hand.merge(flow, [waiting], 3) == 3
    assert hand.room == 0
    assert sum(turn.count for turn in hand.turns()) == 9
    assert all(turn.express for turn in hand.turns())


# --- what it never overtakes -----------------------------------------------------------------------------------------


def test_a_line_knows_whether_a_higher_priority_waits_in_it() -> None:
    line = Line()
    line.add(9, 10)
    line.add(4, 5)
    assert line.has_higher(4, waiting=6)
    assert not line.has_higher(4, waiting=5)
    assert not line.has_higher(9, waiting=15)
    line.add(4, 5)
    line.drop(5)
    assert line.has_higher(4, waiting=6)


def busy(fleet: Fleet, run: float = 0.002) -> None:
    """Two workers that have a lead out of one tenant's tasks."""
    for _ in range(2):
        fleet.worker(4, labels=["gpu"])
    fleet.submit(of(key="large"), *[run] * 5000)
    fleet.run(0.5)


def over(fleet: Fleet, jobs: list[Job]) -> float:
    """Seconds until all were over."""
    fleet.run_until(lambda: all(job.ended for job in jobs))
    return max(job.ended - job.submitted for job in jobs)


def test_a_key_that_comes_anew_is_served_past_the_lead_by_several_workers() -> None:
    fleet = Fleet()
    busy(fleet)
    jobs = fleet.submit(of(key="small"), *[0.002] * 10)
    assert all(job.express for job in jobs)
    assert over(fleet, jobs) < 0.01
    assert {job.by for job in jobs} == {"w0", "w1"}


def test_it_goes_at_once_without_being_queued_and_as_a_plan_would_send_it() -> None:
    fleet = Fleet()
    busy(fleet)
    where = of(key="small")
    assert len(fleet.turns.admit_express(where, 10, fleet.now)) == 10
    assert fleet.turns.admit_express(of(), 10, fleet.now) == [], "without a key it is stored without a worker"
    assert fleet.turns.admit_express(of(key="large"), 10, fleet.now) == [], "others of its key wait"
    assert fleet.turns.admit_express(of(key="small", priority=3), 10, fleet.now) == [], "a higher priority waits"
    had = 10
    while some := fleet.turns.admit_express(where, 1, fleet.now):
        had += len(some)
        assert had < 100, "it has one credit, however it comes"
    fleet.limit(Scope.KEY, "other", concurrency=2)
    assert len(fleet.turns.admit_express(of(key="other"), 10, fleet.now)) == 2


def test_what_was_taken_for_a_worker_and_not_used_is_given_back() -> None:
    fleet = Fleet()
    busy(fleet)
    before = fleet.express._workers["w0"].out
    unused, doubtful = (fleet.flights.reserve("q", count, 4, "w0", express=True) for count in (3, 2))
    assert fleet.express._workers["w0"].out == before + 5
    fleet.flights.release("q", unused)
    fleet.flights.doubt("q", doubtful)
    assert fleet.express._workers["w0"].out == before


def test_no_more_is_out_than_the_window_and_what_workers_finish_in_a_horizon() -> None:
    fleet = Fleet()
    busy(fleet)
    window = fleet.rooms.window("q", fleet.now).tasks
    for number in range(200):
        fleet.submit(of(key=f"k{number}"), *[0.002] * 10)
        assert fleet.flights.out("q") <= window + 2 * MOST
    fleet.run(0.6)
    assert fleet.flights.out("q") <= window + 1, "what went beyond it is paid back"


def test_a_higher_priority_is_overtaken_neither_where_it_waits_nor_in_the_broker() -> None:
    fleet = Fleet()
    busy(fleet)
    urgent = fleet.submit(of(key="large", priority=9), *[0.002] * 200)
    small = fleet.submit(of(key="small"), *[0.002] * 10)
    fleet.submit(of(key="other", priority=9), *[0.002] * 10)
    over(fleet, small)
    assert min(job.started for job in small) >= max(job.started for job in urgent)


def test_it_waits_for_a_higher_priority_of_which_nothing_is_in_the_broker_yet() -> None:
    fleet = Fleet()
    busy(fleet)
    fleet.up = False
    urgent = fleet.submit(of(key="large", priority=9), *[0.002] * 200)
    small = fleet.submit(of(key="small"), *[0.002] * 10)
    assert not any(job.sent for job in [*urgent[1:], *small])
    fleet.up = True
    fleet.pump()
    assert not any(job.sent for job in small)


def test_a_lower_priority_is_overtaken() -> None:
    fleet = Fleet()
    busy(fleet)
    fleet.submit(of(key="other", priority=5), *[0.002] * 10)
    fleet.run(0.6)
    fleet.submit(of(key="large", priority=5), *[0.002] * 1000)
    fleet.run(0.7)
    jobs = fleet.submit(of(key="small", priority=5), *[0.002] * 10)
    assert any(job.express for job in jobs)


@pytest.mark.parametrize("scope", [Scope.QUEUE, Scope.TASK, Scope.KEY])
def test_limits_hold_past_the_window_too(scope: Scope) -> None:
    fleet = Fleet()
    busy(fleet)
    name = {Scope.QUEUE: "q", Scope.TASK: "u", Scope.KEY: "small"}[scope]
    fleet.limit(scope, name, rate=Rate(3, 10.0))
    before = len(fleet.sent)
    fleet.submit(of(key="small", task="u"), *[0.002] * 10)
    fleet.run(0.6)
    assert len([job for job in fleet.sent[before:] if scope is Scope.QUEUE or job.lane.key == "small"]) <= 3
    fleet.limit(scope, name, paused=True)
    fleet.run(0.7)
    before = len(fleet.sent)
    fleet.submit(of(key="small", task="u"), 0.002)
    fleet.run(0.8)
    assert not any(job.lane.key == "small" for job in fleet.sent[before:])


def test_what_only_some_can_run_goes_to_one_of_these() -> None:
    fleet = Fleet()
    busy(fleet)
    fleet.worker(4)
    jobs = fleet.submit(of(key="small", requires=["gpu"]), *[0.002] * 10)
    assert all(job.express for job in jobs)
    over(fleet, jobs)
    assert {job.by for job in jobs} == {"w0", "w1"}


def test_a_worker_that_is_held_up_by_long_tasks_is_sent_nothing() -> None:
    fleet = Fleet()
    for _ in range(2):
        fleet.worker(4)
    fleet.submit(of(key="long", task="long"), *[60.0] * 4)
    fleet.run(0.1)
    fleet.submit(of(key="large"), *[0.002] * 5000)
    fleet.run(0.5)
    held_up = next(machine for machine in fleet.machines if machine.busy == 4)
    jobs = fleet.submit(of(key="small"), *[0.002] * 10)
    assert any(job.express for job in jobs)
    assert not held_up.express
    assert over(fleet, jobs) < 0.03


def test_where_nothing_waits_in_the_broker_nothing_is_express() -> None:
    fleet = Fleet()
    busy(fleet, run=1.0)
    fleet.run(5.0)
    jobs = fleet.submit(of(key="small"), *[1.0] * 10)
    assert fleet.now - START == 5.0
    over(fleet, jobs)
    assert not any(job.express for job in jobs)


def test_a_plan_gives_a_worker_of_several_queues_no_more_than_there_is_room_for() -> None:
    queues = "abcde"
    fleet = Fleet()
    fleet.worker(4, *queues)
    for queue in queues:
        fleet.submit(of(queue, "large", task=f"t{queue}"), *[0.001] * 5000)
    fleet.run(1.0)
    for queue in queues:
        where = of(queue, "small", task=f"t{queue}")
        jobs = [Job(where, where, 0.001, next(fleet._serial), fleet.now) for _ in range(30)]
        fleet.stored[where.number].extend(jobs)
        fleet.backlog.add(where, 30, fleet.wall)
    room = fleet.express.rooms("a", fleet.now)["w0"]
    turns = fleet.turns.plan(fleet.now, fleet.wall)
    assert 0 < sum(turn.count for turn in turns if turn.express) <= room


def test_what_overflows_is_no_key_that_came_anew() -> None:
    """It has none at all, perhaps, and is stored without a worker then."""
    fleet = Fleet(max_lanes=3)
    for _ in range(2):
        fleet.worker(4)
    fleet.submit(of(key="large"), *[0.002] * 5000)
    fleet.run(0.5)
    for key in "ab":
        fleet.submit(of(key=key), *[0.002] * 500)
    fleet.run(0.8)
    where = fleet.backlog.place(of(task="g"))
    assert where.key == OVERFLOW
    assert fleet.turns.admit_express(where, 10, fleet.now) == []


def test_a_worker_whose_slots_are_full_of_what_is_bound_to_it_is_sent_none() -> None:
    fleet = Fleet()
    busy(fleet)
    assert fleet.rooms.express("q", 4, fleet.now)
    room = fleet.rooms.direct_room("w0")
    placements = fleet.flights.reserve("q", room, 4, "w0")
    bound = [
        ClaimedTask(Assignment(f"bound-{each.number}", "t", each.lease, 1), "q", 4, 0.0, each.number, worker="w0")
        for each in placements
    ]
    fleet.flights.launch(bound, fleet.now)
    assert "w0" not in fleet.rooms.express("q", 4, fleet.now)


@pytest.mark.parametrize("bound", [0.0005, 0.002])
def test_nothing_urgent_is_overtaken_where_some_tasks_are_bound_to_workers(bound: float) -> None:
    """Those do not stand in its line, so their end does not mean that it has moved on."""
    fleet = Watched(path=0.001, commit=0.001)
    fleet.worker(4, labels=["gpu"])
    fleet.worker(4)
    fleet.submit(of(key="large"), *[0.002] * 30_000)
    fleet.submit(of(key="g", task="gt", requires=["gpu"]), *[bound] * 30_000)
    fleet.run(0.5)
    for number in range(20):
        fleet.after(0.12 * number, lambda: fleet.urgent.extend(fleet.submit(of(key="urgent", priority=9), 0.002)))
    for number in range(1200):
        fleet.after(0.002 * number, partial(fleet.submit, of(key=f"k{number}"), 0.002))
    fleet.run(3.0)
    assert fleet.sent_by_express > 20
    assert all(job.started for job in fleet.urgent)
    overtaken = [late for job, late in fleet.passed if late.started and late.started < job.started - 1e-6]
    assert not overtaken


class Watched(PrefetchingFleet):
    """Takes down what goes by express while something urgent is out and has not started."""

    def __init__(self, path: float, commit: float) -> None:
        super().__init__(path, commit)
        self.urgent: list[Job] = []
        self.passed: list[tuple[Job, Job]] = []
        self.sent_by_express = 0

    def _send(
        self, jobs: Sequence[Job], placements: Sequence[Placement], worker: str = "", express: bool = False
    ) -> None:
        if express:
            self.sent_by_express += len(jobs)
            waiting = [job for job in self.urgent if job.sent and not job.started and not job.express]
            self.passed += [(job, late) for job in waiting for late in jobs]
        super()._send(jobs, placements, worker, express)

"""What operators are told about queues, and why tasks wait."""

from __future__ import annotations

from typing import Any

import pytest

from common.quotas import Quota, Rate, Scope
from common.telemetry import Telemetry
from common.wire import Beat
from scheduler_service import events
from scheduler_service.fleet.backlog import Backlog
from scheduler_service.fleet.capability import Capability
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.lanes import lane
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.reasons import Reasons
from scheduler_service.fleet.traffic import Traffic
from scheduler_service.queue_reporter import QueueReporter
from tests.support.rooms import flights_and_rooms

NOW, WALL = 1000.0, 1_700_000_000.0


class Fleet:
    """All that a reporter reads, real, under clocks that stand until they are set."""

    def __init__(self) -> None:
        self.now = NOW
        self.backlog, self.ledger, self.directory = Backlog(), Ledger(), Directory(15.0)
        self.flights, rooms = flights_and_rooms(self.directory)
        self.capability = Capability(self.directory)
        self.reasons = Reasons(self.capability, self.ledger, self.flights.paused)
        self.telemetry = Telemetry()
        self.scheduled: dict[str, int] = {}
        self.reporter = QueueReporter(
            backlog=self.backlog,
            scheduled=lambda: self.scheduled,
            flights=self.flights,
            rooms=rooms,
            directory=self.directory,
            capability=self.capability,
            ledger=self.ledger,
            reasons=self.reasons,
            traffic=Traffic(self.telemetry, lambda: self.now),
            target=60.0,
            clock=lambda: self.now,
            wall=lambda: WALL,
        )

    def work(self, name: str = "w1", **more: Any) -> None:
        fields: dict[str, Any] = {
            "queues": ["default"], "slots": 10, "running": [], "waiting": [], "functions": ["add"], "direct": True,
        } | more  # fmt: skip
        self.directory.hear(Beat(name, 1, **fields), self.now)

    def queue(self, count: int, task: str = "add", queue: str = "default", **more: Any) -> None:
        self.backlog.add(lane(queue, 4, task, **more), count, WALL - 30.0)

    def quota(self, scope: Scope, name: str, **more: Any) -> None:
        self.ledger.set(Quota(scope=scope, name=name, **more))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_a_queue_is_described(fleet: Fleet) -> None:
    fleet.work(slots=10)
    fleet.queue(600)
    fleet.scheduled["default"] = 7
    done = [events.Finished("default", "add", "succeeded", [1.0] * 50, [2.0] * 50)]
    fleet.telemetry.emit(events.Submitted(700, {"default": 700}, 0))
    fleet.telemetry.emit(events.Replied(50, done, 0))
    fleet.now += 10
    (report,) = fleet.reporter.reports()

    assert (report.name, report.queued, report.scheduled, report.workers, report.slots) == ("default", 600, 7, 1, 10)
    assert (report.oldest, report.accepted, report.finished) == (30.0, 70.0, 5.0)
    assert report.drain_seconds == 120.0, "the oldest has waited, so what was finished lately is what there is"
    assert report.recommended_workers == 8, "70/s that come need 70 slots, and 600 in a minute 10"
    assert (report.note, report.quota) == ("", None)


def test_every_queue_that_is_known_somehow_is_there(fleet: Fleet) -> None:
    fleet.work(queues=["served"])
    fleet.queue(1, queue="queued")
    fleet.scheduled["later"] = 1
    fleet.quota(Scope.QUEUE, "limited", rate=Rate(5, 1.0))
    fleet.telemetry.emit(events.Submitted(1, {"busy": 1}, 0))
    reports = fleet.reporter.reports()
    assert [report.name for report in reports] == ["busy", "later", "limited", "queued", "served"]
    assert [report.name for report in fleet.reporter.reports(["later", "nothing"])] == ["later"]


def test_queues_that_share_a_worker_share_its_slots_by_weight(fleet: Fleet) -> None:
    fleet.work(queues=["a", "b", "idle"], slots=40)
    fleet.quota(Scope.QUEUE, "a", weight=3)
    fleet.queue(300, queue="a")
    fleet.queue(100, queue="b")
    drains = {report.name: report.drain_seconds for report in fleet.reporter.reports()}
    assert drains == {"a": 1.0, "b": 1.0, "idle": 0.0}


def test_what_no_worker_can_run_is_counted_and_explained(fleet: Fleet) -> None:
    fleet.work()
    fleet.queue(3)
    fleet.queue(2, requires=("gpu",))
    (report,) = fleet.reporter.reports()
    assert (report.queued, report.unrunnable, report.drain_seconds) == (5, 2, None)
    assert report.note == "2 wait: no live worker of the queue 'default' that knows 'add' has the labels gpu"

    fleet.directory.bury_silent(NOW + 60, 1.0, 0.0)
    (report,) = fleet.reporter.reports()
    assert (report.unrunnable, report.note) == (5, "no live worker serves the queue 'default'")
    assert report.recommended_workers == 1, "without a worker, what waits is a reason for one"


@pytest.mark.parametrize(
    ("scope", "name", "quota", "why"),
    [
        (Scope.QUEUE, "default", {"paused": True}, "the queue 'default' is paused"),
        (Scope.TASK, "add", {"paused": True}, "the task function 'add' is paused"),
        (Scope.KEY, "anna", {"paused": True}, "the key 'anna' is paused"),
        (Scope.QUEUE, "default", {"concurrency": 2}, "the queue 'default' has reached its limit of 2 at a time"),
        (Scope.TASK, "add", {"concurrency": 2}, "the task function 'add' has reached its limit of 2 at a time"),
        (Scope.KEY, "anna", {"rate": Rate(2, 60.0)}, "the key 'anna' has reached its rate of 2/m"),
    ],
)
def test_a_limit_is_a_reason_to_wait(fleet: Fleet, scope: Scope, name: str, quota: dict[str, Any], why: str) -> None:
    fleet.work()
    fleet.quota(scope, name, **quota)
    mine, other = lane("default", 4, "add", "anna"), lane("other", 4, "mul", "bert")
    fleet.ledger.take(mine, 2)
    fleet.ledger.sent(mine, 2, NOW)
    assert fleet.reasons.why(mine, NOW) == why
    assert "no live worker serves" in fleet.reasons.why(other, NOW)
    fleet.queue(1, key="anna")
    assert fleet.reporter.reports(["default"])[0].note == ("paused" if why == "the queue 'default' is paused" else why)


def test_what_limits_and_pauses_hold_back_is_counted_apart(fleet: Fleet) -> None:
    fleet.work()
    fleet.queue(2, key="late")
    fleet.queue(3)
    assert fleet.reporter.reports()[0].limited == 0
    fleet.quota(Scope.KEY, "late", paused=True)
    (held,) = fleet.reporter.reports()
    assert (held.limited, held.queued) == (2, 5)


def test_the_signals_for_scaling_follow_from_depth_rate_and_slots(fleet: Fleet) -> None:
    """Two workers of ten slots, tasks of 3 s, of which five a second come: 15 slots for those, and the backlog's."""
    fleet.work("w1")
    fleet.work("w2")
    fleet.telemetry.emit(events.Submitted(1, {"default": 1}, 0))
    for second in range(60):
        fleet.now = NOW + 1 + second
        fleet.telemetry.emit(events.Submitted(5, {"default": 5}, 0))
        done = [events.Finished("default", "add", "succeeded", [3.0] * 5, [9.0] * 5)]
        fleet.telemetry.emit(events.Replied(5, done, 0))
    fleet.now = NOW + 61
    (calm,) = fleet.reporter.reports()
    assert (calm.accepted, calm.finished, calm.drain_seconds) == (5.0, 5.0, 0.0)
    assert calm.recommended_workers == 2
    fleet.queue(600)
    (busy,) = fleet.reporter.reports()
    assert busy.drain_seconds == 120.0, "five a second were finished lately, since the oldest has waited for 30 s"
    assert busy.recommended_workers == 5, "15 slots for what comes, 600 x 3 s / 60 s for what waits"
    fleet.quota(Scope.QUEUE, "default", rate=Rate(4, 1.0))
    (limited,) = fleet.reporter.reports()
    assert (limited.drain_seconds, limited.recommended_workers) == (150.0, 2), "more workers make it no faster"


def test_limits_of_functions_and_keys_bound_what_more_workers_could_do(fleet: Fleet) -> None:
    fleet.work(slots=10, functions=["slow", "quick"])
    fleet.queue(20_000, task="slow")
    done = [events.Finished("default", "slow", "succeeded", [1.0] * 60, [2.0] * 60)]
    fleet.telemetry.emit(events.Submitted(20_000, {"default": 20_000}, 0))
    fleet.telemetry.emit(events.Replied(60, done, 0))
    fleet.now += 10
    (free,) = fleet.reporter.reports()
    assert free.recommended_workers > 50

    fleet.quota(Scope.TASK, "slow", concurrency=1)
    (one,) = fleet.reporter.reports()
    assert (one.recommended_workers, one.drain_seconds) == (1, 20_000.0)

    fleet.queue(600, task="quick")
    (both,) = fleet.reporter.reports()
    assert both.recommended_workers > 1, "what nobody limits waits, too"

    fleet.quota(Scope.TASK, "slow", paused=True)
    (report,) = fleet.reporter.reports()
    assert report.drain_seconds is None, "not all of it will ever go"


def test_what_waits_for_a_paused_key_is_no_reason_for_a_worker(fleet: Fleet) -> None:
    fleet.work(slots=10)
    fleet.queue(60_000, key="anna")
    fleet.quota(Scope.KEY, "anna", paused=True)
    (report,) = fleet.reporter.reports()
    assert (report.recommended_workers, report.drain_seconds, report.limited) == (0, None, 60_000)


def test_what_is_held_back_hides_nothing_that_goes_on_beside_it(fleet: Fleet) -> None:
    fleet.work(slots=10)
    fleet.queue(50, key="anna")
    fleet.quota(Scope.KEY, "anna", paused=True)
    for second in range(60):
        fleet.now = NOW + 1 + second
        fleet.telemetry.emit(events.Submitted(30, {"default": 30}, 0))
        done = [events.Finished("default", "add", "succeeded", [1.0] * 30, [1.0] * 30)]
        fleet.telemetry.emit(events.Replied(30, done, 0))
    fleet.now += 1
    (report,) = fleet.reporter.reports()
    assert report.recommended_workers == 3, "30 a second of other keys come and are done"


def test_one_that_only_waits_for_its_turn_has_no_reason(fleet: Fleet) -> None:
    fleet.work()
    fleet.quota(Scope.QUEUE, "default", concurrency=2, rate=Rate(2, 1.0))
    mine = lane("default", 4, "add")
    assert fleet.reasons.why(mine, NOW) == ""
    fleet.ledger.take(mine, 1)
    assert fleet.reasons.why(mine, NOW) == ""


def test_a_search_for_what_was_lost_is_a_reason(fleet: Fleet) -> None:
    fleet.work()
    fleet.flights.paused.add("default")
    assert "waits until it is known what was lost there" in fleet.reasons.why(lane("default", 4, "add"), NOW)


def test_a_paused_queue_says_so(fleet: Fleet) -> None:
    fleet.work()
    fleet.queue(100)
    fleet.quota(Scope.QUEUE, "default", paused=True)
    (report,) = fleet.reporter.reports()
    assert (report.note, report.drain_seconds, report.recommended_workers) == ("paused", None, 0)
    assert report.quota is not None
    assert report.quota.paused

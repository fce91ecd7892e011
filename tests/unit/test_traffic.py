"""What comes and goes by queue."""

from __future__ import annotations

import pytest

from common.telemetry import Telemetry
from scheduler_service import events
from scheduler_service.fleet import traffic
from scheduler_service.fleet.traffic import UNKNOWN_RUN, Flow, Traffic


class Watched:
    """Traffic under a clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.telemetry = Telemetry()
        self.traffic = Traffic(self.telemetry, lambda: self.now)

    def submit(self, count: int, queue: str = "default") -> None:
        self.telemetry.emit(events.Submitted(count, {queue: count}, 0))

    def finish(self, count: int, run: float, queue: str = "default") -> None:
        done = [events.Finished(queue, "add", "succeeded", [run] * count, [1.0] * count)]
        self.telemetry.emit(events.Replied(count, done, 0))


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_minute_is_looked_back_at(watched: Watched) -> None:
    watched.submit(1)
    watched.now += 100
    watched.submit(600)
    watched.finish(60, 0.5)
    watched.now += 59
    assert watched.traffic.of("default") == Flow(10.0, 1.0, 0.0, 0.5)
    watched.now += 2
    assert watched.traffic.of("default") == Flow(0.0, 0.0, 0.0, 0.5), "the run time is remembered"


def test_a_young_queue_is_counted_over_its_life(watched: Watched) -> None:
    watched.submit(100)
    watched.now += 5
    assert watched.traffic.of("default").accepted == 20.0


def test_lately_is_the_last_ten_seconds(watched: Watched) -> None:
    watched.finish(1000, 0.1)
    watched.now += 90
    watched.finish(50, 0.3)
    watched.now += 1
    flow = watched.traffic.of("default")
    assert flow.finished_lately == 5.0
    assert flow.run == pytest.approx(0.3)


def test_what_ends_without_a_run_has_no_run_time(watched: Watched) -> None:
    watched.telemetry.emit(events.Ended([events.Finished("default", "add", "cancelled", [0.0] * 30, [1.0] * 30)]))
    watched.now += 1
    assert watched.traffic.of("default") == Flow(0.0, 30.0, 30.0, UNKNOWN_RUN)


def test_queues_are_apart_and_bounded(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "QUEUES", 2)
    for queue in ("a", "b", "c"):
        watched.submit(10, queue)
    watched.now += 1
    assert watched.traffic.queues() == ["a", "b"]
    assert watched.traffic.of("a").accepted == 10.0
    assert watched.traffic.of("c") == Flow()

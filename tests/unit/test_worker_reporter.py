"""What operators are told about workers."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from common.administration import ListWorkers, RunningAttempt, Workers, WorkerState
from common.wire import Assignment, Beat, Load, encode
from scheduler_service import worker_reporter
from scheduler_service.asking import Asker
from scheduler_service.fleet.directory import Directory
from scheduler_service.storage.claims import ClaimedTask
from scheduler_service.worker_reporter import WorkerReporter
from tests.support.rooms import flights_and_rooms

OPERATOR = Asker("ops", "q", True, True)
ANYBODY = Asker("anna", "q")


class Fleet:
    def __init__(self) -> None:
        self.now = 1000.0
        self.directory = Directory(15.0)
        self.flights, _ = flights_and_rooms(self.directory)
        self.reporter = WorkerReporter(self.directory, self.flights, lambda: self.now)

    def hear(self, name: str, **more: Any) -> None:
        fields: dict[str, Any] = {"queues": ["default"], "slots": 5, "running": [], "waiting": []} | more
        self.directory.hear(Beat(name, 1, **fields), self.now)

    def launch(self, lease: str) -> None:
        assignment = Assignment("id-" + lease, "add", lease, 2, Raw(b"[]"))
        self.flights.launch([ClaimedTask(assignment, "default", 4, 0.0, 1)], self.now)

    async def ask(self, asker: Asker = OPERATOR) -> Workers:
        answer = await self.reporter.answer(asker, encode(ListWorkers()))
        assert isinstance(answer, Workers)
        return answer


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


async def test_each_is_described_as_its_beat_says(fleet: Fleet) -> None:
    load = Load(1.5, 4, 2**20, 0.01, "memory")
    fleet.hear(
        "w1", labels=["gpu"], functions=["mul", "add"], capacity=8, processes=2, waiting=["w"], load=load, host="h",
        pid=7, version="1.2", started_at=5.0,
    )  # fmt: skip
    (report,) = (await fleet.ask()).workers
    assert (report.state, report.slots, report.capacity, report.processes, report.waiting) == ("alive", 5, 8, 2, 1)
    assert (report.labels, report.functions, report.load) == (["gpu"], ["add", "mul"], load)
    assert (report.host, report.pid, report.version, report.started_at) == ("h", 7, "1.2", 5.0)


async def test_what_it_runs_is_told_oldest_first_and_by_name_only_to_operators(fleet: Fleet) -> None:
    fleet.launch("a")
    fleet.hear("w1", running=["a", "b", "c"], ages=[2.0, 9.0])
    (report,) = (await fleet.ask()).workers
    assert report.running == [
        RunningAttempt("b", 9.0), RunningAttempt("a", 2.0, "id-a", "add", "default", 2), RunningAttempt("c", 0.0),
    ]  # fmt: skip
    (report,) = (await fleet.ask(ANYBODY)).workers
    assert report.running == [RunningAttempt("", 9.0), RunningAttempt("", 2.0, queue="default"), RunningAttempt("")]


async def test_states(fleet: Fleet) -> None:
    fleet.hear("dead")
    fleet.now += 20
    fleet.directory.bury_silent(fleet.now, 1.0, 0.0)
    fleet.hear("silent")
    fleet.now += 5
    fleet.hear("alive")
    fleet.hear("draining", draining=True)
    fleet.hear("paused", paused=True)
    states = {report.worker: report.state for report in (await fleet.ask()).workers}
    assert states == {name: WorkerState(name if name != "dead" else "lost") for name in states}
    assert list(states) == ["alive", "draining", "paused", "silent", "dead"]


async def test_an_answer_is_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_reporter, "SHOWN", 40)
    monkeypatch.setattr(worker_reporter, "NAMED", 6)
    for name in ("w1", "w2"):
        fleet.hear(name, running=[f"{name}-{number}" for number in range(50)], functions=list("abcdefgh"))
    reports = (await fleet.ask()).workers
    assert [(len(report.running), len(report.functions)) for report in reports] == [(20, 3), (20, 3)]


async def test_how_many_run_is_told_also_when_not_all_are_listed(fleet: Fleet) -> None:
    """A fleet of 200 workers with 100 tasks each fits into one message, with room to spare."""
    functions = [f"shop.functions.function_{number}" for number in range(50)]
    for number in range(200):
        leases = [f"{number:04}-{each:017}" for each in range(100)]
        fleet.hear(f"host-{number:03}-4711-abcdefgh", running=leases, ages=[1.5] * 100, functions=functions)
        for lease in leases:
            fleet.launch(lease)
    answer = await fleet.ask()
    assert {(report.busy, len(report.running)) for report in answer.workers} == {(100, 50)}
    assert len(answer.workers) == 200
    assert len(encode(answer)) < 2 * 2**20

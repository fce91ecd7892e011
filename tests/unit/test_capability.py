"""Which of the live workers can run a lane, and where it goes then."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from common.wire import Beat
from scheduler_service.fleet.capability import Capability, Serves
from scheduler_service.fleet.directory import Directory
from tests.support.fleet import Fleet, of

NOW = 1000.0


def worker(name: str, *functions: str, labels: tuple[str, ...] = (), queue: str = "q", direct: bool = True) -> Beat:
    beat = Beat(name, 1, [queue], 4, [], [], capacity=4, direct=direct)
    beat.functions, beat.labels = list(functions) or None, list(labels)
    return beat


def fleet(*beats: Beat) -> tuple[Directory, Capability]:
    directory = Directory(15.0)
    for beat in beats:
        directory.hear(beat, NOW)
    return directory, Capability(directory)


def test_what_all_can_run_goes_to_the_queue_that_they_share() -> None:
    _, capability = fleet(worker("a", "t", "u"), worker("b", "t"), worker("c", queue="r"))
    assert capability.of(of(task="t")).serves is Serves.ALL
    assert capability.why_not(of(task="t")) == ""


def test_what_some_can_run_goes_to_those_that_can() -> None:
    _, capability = fleet(worker("a", "t", "u"), worker("b", "t"), worker("c", "t", "u", direct=False))
    ability = capability.of(of(task="u"))
    assert (ability.serves, ability.workers) == (Serves.SOME, ("a",))


def test_labels_that_are_asked_for_are_needed_all() -> None:
    _, capability = fleet(
        worker("a", "t", labels=("gpu", "ssd")), worker("b", "t", labels=("gpu",)), worker("c", "t")
    )  # fmt: skip
    assert capability.of(of(requires=["gpu"])).workers == ("a", "b")
    assert capability.of(of(requires=["ssd", "gpu"])).workers == ("a",)
    assert capability.of(of(requires=["tape"])).serves is Serves.NONE
    assert capability.of(of()).serves is Serves.ALL


def test_who_has_not_told_its_functions_yet_counts_as_capable() -> None:
    _, capability = fleet(worker("a", "t"), worker("b"))
    assert capability.of(of(task="u")).workers == ("b",)
    assert capability.of(of(task="t")).serves is Serves.ALL


def test_a_function_that_nobody_ever_knew_is_sent_so_that_it_fails_and_one_that_was_known_waits() -> None:
    directory, capability = fleet(worker("a", "t"), worker("b", "u"))
    assert capability.of(of(task="typo")).serves is Serves.ALL
    directory.hear(replace(worker("b"), leaving=True), NOW)
    assert capability.of(of(task="u")).serves is Serves.NONE
    assert "knows the task function 'u'" in capability.why_not(of(task="u"))


def test_a_worker_that_comes_goes_drains_or_changes_counts_at_once() -> None:
    directory, capability = fleet(worker("a", "t", "u"))
    assert capability.of(of(task="u")).serves is Serves.ALL
    directory.hear(worker("b", "t"), NOW)
    assert capability.of(of(task="u")).serves is Serves.SOME
    directory.hear(replace(worker("b", "t"), number=2, draining=True), NOW)
    assert capability.of(of(task="u")).serves is Serves.ALL
    directory.hear(replace(worker("a", "t"), number=2), NOW)
    assert capability.of(of(task="u")).serves is Serves.NONE


def test_it_says_why_nobody_can() -> None:
    _, capability = fleet(worker("a", "t", direct=False), worker("b", "t", direct=False, labels=("gpu",)))
    assert capability.why_not(of("r")) == "no live worker serves the queue 'r'"
    assert "has the labels tape" in capability.why_not(of(requires=["tape"]))
    assert "take no tasks of their own" in capability.why_not(of(requires=["gpu"]))


def test_it_says_why_of_a_worker_that_has_just_gone() -> None:
    directory, capability = fleet(worker("a", "t"))
    assert capability.why_not(of(task="t")) == ""
    directory.hear(replace(worker("a", "t"), number=2, leaving=True), NOW)
    assert capability.why_not(of(task="t")) == "no live worker serves the queue 'q'"


def test_answers_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler_service.fleet.capability.REMEMBERED", 10)
    _, capability = fleet(worker("a", "t"))
    for number in range(100):
        capability.of(of(task=f"task-{number}"))
        assert len(capability._known) <= 10


# --- in the fleet ----------------------------------------------------------------------------------------------------


def test_tasks_run_only_where_they_can_and_are_spread_over_those() -> None:
    fleet = Fleet()
    plain = fleet.worker(8, functions=["t"])
    large, small = (fleet.worker(slots, functions=["t"], labels=["gpu"]) for slots in (4, 2))
    picky = fleet.submit(of(requires=["gpu"]), *[1.0] * 60)
    fine = fleet.submit(of(), *[1.0] * 60)
    fleet.run_until(lambda: len(fleet.done) == 120)
    assert {job.by for job in picky} == {large.name, small.name}
    assert plain.name in {job.by for job in fine}
    assert sum(job.by == large.name for job in picky) == pytest.approx(40, abs=6)
    assert max(job.ended for job in picky) - picky[0].submitted < 60 / 6 + 3


def test_what_nobody_can_run_waits_and_holds_up_nothing_until_somebody_comes() -> None:
    fleet = Fleet()
    fleet.worker(1)
    stuck = fleet.submit(of(priority=9, requires=["gpu"]), *[0.1] * 5)
    fine = fleet.submit(of(priority=0), *[0.1] * 5)
    fleet.run(2.0)
    assert all(job.ended for job in fine)
    assert not any(job.sent for job in stuck)
    assert [(each.lane, why) for each, why in fleet.turns.unrunnable("q")] == [
        (stuck[0].lane, "no live worker of the queue 'q' that knows 't' has the labels gpu")
    ]
    able = fleet.worker(1, labels=["gpu"])
    fleet.run(4.0)
    assert {job.by for job in stuck} == {able.name}

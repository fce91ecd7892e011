"""Who lives, who died, and what they held."""

from __future__ import annotations

from typing import Any

import pytest

from common.wire import Beat
from scheduler_service.fleet.directory import DEATHS, FUNCTIONS, Directory

NOW = 1000.0


@pytest.fixture
def directory() -> Directory:
    return Directory(dead_after=15.0)


def beat(worker: str = "w1", number: int = 1, **more: Any) -> Beat:
    fields: dict[str, Any] = {"queues": ["default"], "slots": 5, "running": ["r1"], "waiting": ["q1"]} | more
    return Beat(worker, number, **fields)


def bury(directory: Directory, now: float, grace: float = 1.0, deaf_until: float = 0.0) -> list[str]:
    return [death.worker for death in directory.bury_silent(now, grace, deaf_until)]


def test_a_beat_makes_a_worker_live_with_what_it_holds(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    assert (directory.holder("r1"), directory.holder("q1"), directory.holder("other")) == ("w1", "w1", None)
    assert (directory.running_at("r1"), directory.running_at("q1")) == ("w1", None)
    assert [worker.beat.worker for worker in directory.serving("default")] == ["w1"]
    assert directory.serving("email") == []


def test_the_last_beat_counts_and_an_older_one_that_comes_late_does_not(directory: Directory) -> None:
    directory.hear(beat(number=2, running=["r2"], waiting=[]), NOW)
    directory.hear(beat(number=1), NOW + 1)
    assert (directory.holder("r1"), directory.holder("r2")) == (None, "w1")


def test_functions_are_remembered_from_the_beat_that_said_them(directory: Directory) -> None:
    directory.hear(beat(functions=["add"]), NOW)
    directory.hear(beat(number=2), NOW + 1)
    assert directory.workers["w1"].functions == {"add"}
    directory.hear(beat(number=3, functions=[]), NOW + 2)
    assert directory.workers["w1"].functions == frozenset()


def test_a_function_that_was_named_once_stays_known_and_is_told_once_to_be_kept(directory: Directory) -> None:
    directory.hear(beat(functions=["add"], barred=["train"]), NOW)
    assert directory.take_fresh() == {"add", "train"}
    assert directory.workers["w1"].functions == {"add"}
    assert directory.named() == {"add"}
    before = directory.version
    assert directory.remember(["add", "old"]) == {"old"}
    assert directory.version > before
    directory.hear(beat(number=2, functions=["add"], leaving=True), NOW + 1)
    assert directory.has_heard_of("train")
    assert directory.has_heard_of("old")
    assert not directory.has_heard_of("other")
    assert directory.take_fresh() == set()


def test_no_more_functions_are_remembered_than_are_allowed_and_none_with_an_impossible_name(
    directory: Directory,
) -> None:
    directory.hear(beat(functions=["x" * 129, *(f"f{number}" for number in range(FUNCTIONS + 10))]), NOW)
    assert len(directory.take_fresh()) == FUNCTIONS
    assert not directory.has_heard_of("x" * 129)


def test_a_function_is_elsewhere_when_it_was_named_and_not_by_this_worker(directory: Directory) -> None:
    directory.hear(beat("w1", functions=["add"]), NOW)
    directory.hear(beat("w2", functions=["sub"]), NOW)
    assert directory.is_elsewhere("add", "w2")
    assert directory.is_elsewhere("add", "gone")
    assert not directory.is_elsewhere("add", "w1")
    assert not directory.is_elsewhere("other", "w1")


def test_a_worker_that_is_silent_too_long_is_dead(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    assert bury(directory, NOW + 15.0) == []
    assert bury(directory, NOW + 15.1) == ["w1"]
    assert directory.workers == {}
    assert directory.held_by_dead("r1")
    assert directory.held_by_dead("q1")
    assert directory.running_at_dead("r1")
    assert not directory.running_at_dead("q1")


def test_a_worker_without_a_connection_is_dead_after_the_grace(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    directory.workers["w1"].gone_since = NOW + 1.0
    assert directory.serving("default") == []
    assert bury(directory, NOW + 1.5) == []
    assert bury(directory, NOW + 2.5) == ["w1"]


def test_a_beat_within_the_grace_saves_it(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    directory.workers["w1"].gone_since = NOW + 1.0
    directory.hear(beat(number=2), NOW + 1.5)
    assert bury(directory, NOW + 2.5) == []


def test_after_we_were_deaf_ourselves_a_lost_connection_alone_is_no_death(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    directory.forgive(NOW + 60.0)
    directory.workers["w1"].gone_since = NOW + 61.0
    assert bury(directory, NOW + 63.0, deaf_until=NOW + 60.0) == []
    assert bury(directory, NOW + 76.0, deaf_until=NOW + 60.0) == ["w1"]


def test_silence_counts_from_when_we_could_hear_again(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    directory.forgive(NOW + 60.0)
    assert bury(directory, NOW + 70.0) == []


def test_a_worker_that_leaves_did_not_die_of_its_tasks(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    directory.hear(beat(number=2, leaving=True, running=[], waiting=[]), NOW + 1)
    assert directory.workers == {}
    assert not directory.held_by_dead("r1")
    assert not directory.holder_died("r1", "default", NOW)


def test_the_last_beat_of_somebody_unknown_changes_nothing(directory: Directory) -> None:
    directory.hear(beat(leaving=True), NOW)
    assert directory.workers == {}
    assert list(directory.deaths) == []


@pytest.mark.parametrize(
    ("lease", "queue", "dispatched_at", "suspect"),
    [
        ("r1", "default", NOW, True),
        ("r1", "default", NOW + 100.0, True),
        ("new", "default", NOW + 1.0, True),
        ("new", "default", NOW + 5.0, False),
        ("new", "email", NOW, False),
    ],
    ids=["listed", "listed long ago", "not yet listed", "dispatched after its time", "of another queue"],
)
def test_who_may_have_been_held_by_a_dead_worker(
    directory: Directory, lease: str, queue: str, dispatched_at: float, suspect: bool
) -> None:
    directory.hear(beat(), NOW)
    bury(directory, NOW + 20.0)
    assert directory.holder_died(lease, queue, dispatched_at) is suspect


def test_a_draining_worker_lives_and_takes_no_more(directory: Directory) -> None:
    directory.hear(beat(draining=True), NOW)
    assert directory.serving("default") == []
    assert directory.holder("r1") == "w1"


def test_why_a_task_waits(directory: Directory) -> None:
    assert "no live worker serves" in directory.why_waiting("default", "add")
    directory.hear(beat(), NOW)
    assert directory.why_waiting("default", "add") == ""
    directory.hear(beat(number=2, functions=["sub"]), NOW)
    assert "'add'" in directory.why_waiting("default", "add")
    directory.hear(beat("w2", functions=["add"]), NOW)
    assert directory.why_waiting("default", "add") == ""
    assert "'email'" in directory.why_waiting("email", "add")


def test_deaths_are_remembered_up_to_a_bound(directory: Directory) -> None:
    for number in range(DEATHS + 10):
        directory.hear(beat(f"w{number}", running=[f"r{number}"]), NOW + 20.0 * number)
        bury(directory, NOW + 20.0 * (number + 1))
    assert len(directory.deaths) == DEATHS
    assert not directory.held_by_dead("r0")
    assert directory.held_by_dead(f"r{DEATHS + 9}")


def test_a_lost_worker_is_shown_for_ten_minutes_unless_it_comes_back(directory: Directory) -> None:
    directory.hear(beat("w1"), NOW)
    directory.hear(beat("w2"), NOW)
    directory.hear(beat("w3"), NOW)
    directory.hear(beat("w3", 2, leaving=True), NOW)
    bury(directory, NOW + 20)
    assert [death.worker for death in directory.lost(NOW + 20)] == ["w2", "w1"], "who leaves is not lost"

    directory.hear(beat("w1"), NOW + 30)
    assert [death.worker for death in directory.lost(NOW + 30)] == ["w2"]
    directory.hear(beat("w1", 2, leaving=True), NOW + 31)
    assert [death.worker for death in directory.lost(NOW + 31)] == ["w2"], "it came back, and left in good order"
    directory.hear(beat("w1"), NOW + 32)
    bury(directory, NOW + 60)
    assert [death.worker for death in directory.lost(NOW + 60)] == ["w1", "w2"], "it died once more"
    assert directory.lost(NOW + 701) == []


def test_a_worker_that_is_late_or_without_a_connection_is_silent(directory: Directory) -> None:
    directory.hear(beat(), NOW)
    worker = directory.workers["w1"]
    assert not worker.is_silent(NOW + 2.9)
    assert worker.is_silent(NOW + 3.1)
    worker.gone_since = NOW
    assert worker.is_silent(NOW)


def test_a_paused_worker_takes_nothing(directory: Directory) -> None:
    directory.hear(beat(paused=True), NOW)
    assert directory.serving("default") == []
    assert "no live worker serves" in directory.why_waiting("default", "add")

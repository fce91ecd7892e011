"""Thousands of lives of a small Warren, each by its own dice: every accepted task ends exactly once, as it should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from common.states import TERMINAL, Cancelled, Due, Event, Rules, State, Task, Transition, Verdict, transition
from scheduler_service.fleet.flights import Flights
from tests.support.simulation import Faults, Step, Violation, World

QUIET = Faults()
CALM = Faults(kill=0.1, purge=0.05, double=0.2, cancel=0.1)
"""No task may be in two hands at once: nobody runs on after the broker gave him up."""
STORM = Faults(kill=0.15, freeze=0.15, restart=0.15, purge=0.1, amnesia=0.05, double=0.2, unknown=0.2, cancel=0.1)


def lives(faults: Faults, seeds: int, *, step: Step = transition) -> None:
    for seed in range(seeds):
        try:
            World(seed, faults, step=step).run()
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}") from None


@pytest.mark.parametrize(("faults", "seeds"), [(QUIET, 100), (CALM, 300), (STORM, 300)], ids=["quiet", "calm", "storm"])
def test_every_task_ends_exactly_once_and_as_it_should(faults: Faults, seeds: int) -> None:
    lives(faults, seeds)


def test_without_faults_a_task_runs_exactly_once() -> None:
    for seed in range(20):
        world = World(seed, QUIET)
        world.kinds = dict.fromkeys(world.kinds, "fine")
        world.run()
        assert world.runs == dict.fromkeys(world.kinds, 1)


@pytest.mark.parametrize("killers", [1, 3])
def test_a_killer_convicts_nobody_else(killers: int) -> None:
    """Tasks that take their worker down each time end as crashed after a bounded number of runs, and nobody else."""
    for seed in range(50):
        world = World(seed, QUIET, tasks=60)
        world.kinds = {id_: "massacre" if n < killers else "fine" for n, id_ in enumerate(world.kinds)}
        world.run()
        ended = {row.id: row.task.state for row in world.rows.values()}
        guilty = {id_ for id_, kind in world.kinds.items() if kind == "massacre"}
        assert {id_ for id_, state in ended.items() if state is State.FAILED} == guilty, f"seed {seed}"
        assert max(world.runs[id_] for id_ in guilty) <= 6, f"seed {seed}"


def test_a_seed_is_a_life_that_can_be_lived_again() -> None:
    lives = [World(7, STORM) for _ in range(2)]
    for life in lives:
        life.run()
    first, second = ((life.now, life.deaths, life.runs, list(life.ended)) for life in lives)
    assert first == second
    assert len(first[1]) > 0


def without_the_lease_check(task: Task, event: Event, now: float, rules: Rules) -> Transition:
    """Whatever lease an event is about passes for the current one."""
    if not isinstance(event, Due | Cancelled) and task.state is State.DISPATCHED:
        event = replace(event, lease=task.lease)
    return transition(task, event, now, rules)


def without_the_rule_that_terminal_is_for_ever(task: Task, event: Event, now: float, rules: Rules) -> Transition:
    """A late event moves a terminal task as if it were still out."""
    if task.state in TERMINAL and not isinstance(event, Due | Cancelled):
        task = replace(task, state=State.DISPATCHED, lease=event.lease)
    return transition(task, event, now, rules)


def without_a_new_queueing_of_what_was_lost(task: Task, event: Event, now: float, rules: Rules) -> Transition:
    """What was lost stays out."""
    step = transition(task, event, now, rules)
    return Transition(Verdict.STALE, task) if type(event).__name__ == "Lost" else step


@pytest.mark.parametrize(
    "mutant",
    [
        without_the_lease_check,
        without_the_rule_that_terminal_is_for_ever,
        without_a_new_queueing_of_what_was_lost,
    ],
)
def test_the_simulation_turns_red_when_a_rule_is_taken_out(mutant: Step) -> None:
    with pytest.raises(Violation):
        lives(CALM, 300, step=mutant)


def test_a_cancelled_dispatch_is_out_until_it_is_answered_or_in_nobodys_hands() -> None:
    def run(*, lands: bool) -> None:
        for seed in range(100):
            World(seed, Faults(cancel=0.5), lands=lands).run()

    run(lands=True)
    with pytest.raises(Violation):
        run(lands=False)


def marked(flights: Flights) -> int:
    """The mark of a scheduler that takes a publish for a confirm."""
    return max((flight.number for flight in flights.by_lease.values()), default=0)


@pytest.mark.parametrize(("marks", "lost"), [(None, False), (marked, True)], ids=["the rule", "without it"])
def test_the_mark_alone_brings_back_what_a_dead_scheduler_had_not_published(
    marks: Callable[[Flights], int] | None, lost: bool
) -> None:
    faults = Faults(restart=0.3)

    def run() -> None:
        for seed in range(40):
            world = World(seed, faults, marks=marks, rescue=False)
            world.kinds = dict.fromkeys(world.kinds, "fine")
            world.run()

    if lost:
        with pytest.raises(Violation, match="never ended"):
            run()
    else:
        run()

"""What the short form of the chaos suite does: a seed that was chosen for its faults must not lose them unnoticed."""

from tests.chaos.plan import plan
from tests.system.test_chaos import MINUTES, SEEDS


def test_the_seeds_of_the_short_form_have_a_death_of_each_and_all_kinds_of_silence() -> None:
    faults = {(fault.kind, fault.target.partition("-")[0]) for seed in SEEDS for fault in plan(seed, MINUTES)}
    assert faults >= {("kill", "scheduler"), ("kill", "worker"), ("kill", "broker")}
    assert faults >= {("restart", "scheduler"), ("restart", "worker")}
    assert {kind for kind, _ in faults} >= {"freeze", "cut", "mute", "deafen"}


def test_a_seed_is_the_same_faults_again() -> None:
    assert plan("7", 5.0) == plan("7", 5.0) != plan("8", 5.0)

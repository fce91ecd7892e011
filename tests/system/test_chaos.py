"""Everything at once, by fixed seeds: the short form of `make chaos`, with Warren alone."""

from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.systems.warren import Warren
from tests.support.scenarios import remember
from tests.support.verdict import Verdict

SEEDS = ("155", "366")
"""Between them these kill and restart each service, kill the broker, freeze, cut, mute, deafen (test_chaos_plan)."""
TASKS = 2500
MINUTES = 0.6


class Listener:
    """Prints what happens, for the report of a failed test."""

    def phase(self, text: str) -> None:
        print(text)

    def fault(self, at: float, text: str, met: bool) -> None:
        print(f"{at:8.1f}  {text}")

    def progress(self, confirmed: int, done: int, total: int) -> None:
        """Too often to be told."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_chaos(seed: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    score = run(Warren, tmp_path / "run", seed=seed, tasks=TASKS, minutes=MINUTES, watch=Listener())
    assert not score.problems, "\n".join(score.problems)
    # A cancel whose answer was lost is not counted as one, though it counts.
    unanswered = score.asked - score.cancelled
    assert TASKS - unanswered <= score.done + score.cancelled <= score.confirmed == TASKS
    assert score.cancelled, "some cancels came in time"
    verdict = Verdict(TASKS, score.done, score.ran_twice, 0, [])
    remember(request.node, f"{request.node.name} ({score.faults} faults)", verdict, score.finish)

"""The end of the demo: what came out, whether it is right, how fast it was, where that can be measured."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from deploy.demo.evidence import Runs, StoreRecord
from deploy.demo.job import Outcome

_TOP: Final = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be so."""

    good: bool
    text: str


def top_words(outcome: Outcome) -> list[tuple[str, int]]:
    """Return the most frequent words of the job's totals."""
    return outcome.totals.most_common(_TOP)


def checks(outcome: Outcome, store: StoreRecord, runs: Runs, plain: Counter[str]) -> list[Check]:
    """Judge the job.

    Args:
        outcome: what the client has seen.
        store: what the scheduler has stored.
        runs: what the task function has noted.
        plain: the same count, made in one process without Warren.
    """
    return [_stored(outcome, store), _ran(outcome, runs), _counted(outcome, plain)]


def repetitions(store: StoreRecord, runs: Runs, victim: str) -> str:
    """Say what the kill has cost."""
    begun = f"{runs.by_victim} of them had begun there and so ran twice" if runs.by_victim else "none had begun there"
    text = f"{store.again} tasks were with {victim} and went to the other: {begun}"
    others = runs.repeated - runs.by_victim
    return f"{text}, {others} more ran twice without it" if others else text


def throughput(outcome: Outcome, pause: float) -> str:
    """Say how fast it was, and what that means."""
    rate = len(outcome.ids) / outcome.seconds
    text = f"{rate:,.0f} tasks a second ({len(outcome.ids):,} in {outcome.seconds:.1f} s)"
    return f"{text}, each slowed by {pause * 1000:.0f} ms to be watched" if pause else text


def _stored(outcome: Outcome, store: StoreRecord) -> Check:
    states = Counter(store.states.values())
    found = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "nothing"
    unfinished = store.unfinished(outcome.ids)
    if unfinished or len(store.states) != len(outcome.ids):
        return Check(False, f"{len(outcome.ids):,} tasks submitted, {len(unfinished):,} not ended; stored: {found}")
    text = f"each of {len(outcome.ids):,} tasks is in one terminal state in the store: {found}"
    return Check(not outcome.failures, "; ".join([text, *outcome.failures[:3]]))


def _ran(outcome: Outcome, runs: Runs) -> Check:
    missing = len(outcome.ids) - (runs.total - runs.repeated)
    once = f"{runs.total:,} runs of {len(outcome.ids):,} tasks in the journal that the task function writes"
    return Check(missing <= 0, once if missing <= 0 else f"{once}: {missing:,} never ran")


def _counted(outcome: Outcome, plain: Counter[str]) -> Check:
    if outcome.totals == plain:
        text = f"{plain.total():,} words, {len(plain):,} different: the same as a plain count in one process"
        return Check(True, text)
    wrong = [word for word in outcome.totals.keys() | plain.keys() if outcome.totals[word] != plain[word]]
    return Check(
        False,
        f"{outcome.totals.total():,} words, a plain count in one process finds {plain.total():,}; "
        f"different for {len(wrong):,}, such as {min(wrong)!r}",
    )

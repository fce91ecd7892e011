"""The end of the demo: what came out, whether it is right, how fast it was, where that can be measured."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from common.states import State
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
    text = f"{runs.by_victim} of {runs.files:,} tasks, which {victim} had begun when it was killed"
    if store.again > runs.by_victim:
        text += f"; {store.again - runs.by_victim} more had reached it but not begun"
    if runs.repeated > runs.by_victim:
        text += f"; {runs.repeated - runs.by_victim} others ran twice without having been there"
    return text


def throughput(outcome: Outcome, pause: float) -> str:
    """Say how fast it was, and what that means."""
    rate = len(outcome.ids) / outcome.seconds
    text = f"{rate:,.0f} tasks a second, {len(outcome.ids):,} in {outcome.seconds:.1f} s"
    return f"{text}, at the pace set for watching" if pause else text


def _stored(outcome: Outcome, store: StoreRecord) -> Check:
    states = Counter(store.states.values())
    found = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items())) or "nothing"
    unfinished = store.unfinished(outcome.ids)
    if unfinished or len(store.states) != len(outcome.ids):
        return Check(False, f"{len(outcome.ids):,} tasks submitted, {len(unfinished):,} not ended; stored: {found}")
    text = f"{len(outcome.ids):,} tasks, each in one terminal state in the store: {found}"
    good = not outcome.failures and set(states) == {State.SUCCEEDED}
    return Check(good, "; ".join([text, *outcome.failures[:3]]))


def _ran(outcome: Outcome, runs: Runs) -> Check:
    missing = len(outcome.ids) - runs.files
    text = f"{runs.total:,} runs noted by the task function itself"
    return Check(missing == 0, f"{text}, {f'{missing:,} tasks not' if missing else 'every task'} among them")


def _counted(outcome: Outcome, plain: Counter[str]) -> Check:
    if outcome.totals == plain:
        return Check(True, f"{plain.total():,} words, exactly as a plain count in one process")
    wrong = [word for word in outcome.totals.keys() | plain.keys() if outcome.totals[word] != plain[word]]
    return Check(
        False,
        f"{outcome.totals.total():,} words, a plain count in one process finds {plain.total():,}; "
        f"different for {len(wrong):,}, such as {min(wrong)!r}",
    )

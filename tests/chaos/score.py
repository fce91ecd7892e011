"""The figures of one run, and what is wrong with them."""

from collections.abc import Mapping, Sequence, Set

import msgspec

from deploy.local.administration import Depth
from tests.chaos.driver import Driver
from tests.chaos.footprint import Footprint
from tests.chaos.tally import Tally

_SHOWN = 5


class Score(msgspec.Struct, kw_only=True):
    """What became of one system's tasks.

    Attributes:
        system, setup, lacks: whose.
        broker: the version of RabbitMQ.
        seed, tasks, minutes: what was asked for.
        faults: how many happened.
        no_object: how many could not, since the system has no such part.
        confirmed: tasks that the system took responsibility for.
        done: those that came to their right end.
        cancelled: those whose cancel was answered as such.
        lost: those that came to no end, and that no queue holds either.
        stuck: those that came to no end, while queues still hold messages.
        wrong: those with a wrong result.
        ran_twice: those that were started more often than their own failures asked for.
        extra_runs: how often, all in all.
        asked: cancels that were asked for.
        cancelled_ran: tasks that were started after their cancel was answered, although they were not due before.
        cancelled_late: the same of tasks that were due, and may have been in a worker's hands.
        unconfirmed: submissions that were made again, because nobody knew what had become of them.
        finish: seconds from the last fault and the last submission to the last end of a task.
        by_itself: whether all came to their end before anybody restarted anything.
        messages: what the queues held at the end.
        before, after: what each process held after the warm-up and at the end.
        problems: all that is wrong, in words; empty for a system that passes.
    """

    system: str
    setup: str
    lacks: tuple[str, ...]
    broker: str
    seed: str
    tasks: int
    minutes: float
    faults: int = 0
    no_object: int = 0
    confirmed: int = 0
    done: int = 0
    cancelled: int = 0
    lost: int = 0
    stuck: int = 0
    wrong: int = 0
    ran_twice: int = 0
    extra_runs: int = 0
    asked: int = 0
    cancelled_ran: int = 0
    cancelled_late: int = 0
    unconfirmed: int = 0
    finish: float = 0.0
    by_itself: bool = True
    messages: int = 0
    before: dict[str, Footprint] = {}
    after: dict[str, Footprint] = {}
    problems: list[str] = []


def unfinished(driver: Driver, tally: Tally) -> list[int]:
    """The keys of confirmed tasks that have not come to an end, and of which no cancel was asked for."""
    return [key for key in list(driver.confirmed) if not tally.ends[key] and key not in driver.asked]


def count(score: Score, driver: Driver, tally: Tally) -> None:
    """Fill in the figures of the tasks, and say what is wrong with them.

    Args:
        score: where to.
        driver: what was confirmed and cancelled.
        tally: what was done.
    """
    confirmed = driver.confirmed
    score.confirmed = len(confirmed)
    score.unconfirmed = driver.repeats
    score.asked = len(driver.asked)
    score.cancelled = len(driver.cancelled_at)
    score.done = sum(
        1 for key in confirmed if tally.ends[key] and key not in tally.wrong and key not in driver.cancelled_at
    )
    score.wrong = sum(1 for key in confirmed if key in tally.wrong)
    score.ran_twice = sum(1 for key in confirmed if tally.extra_runs(key))
    score.extra_runs = sum(tally.extra_runs(key) for key in confirmed)
    missing = unfinished(driver, tally)
    score.stuck = min(len(missing), score.messages)
    score.lost = len(missing) - score.stuck
    score.problems += _listed("tasks came to no end", missing)
    score.problems += _listed("tasks have a wrong result", [key for key in confirmed if key in tally.wrong])
    _count_cancelled(score, driver, tally)


def _count_cancelled(score: Score, driver: Driver, tally: Tally) -> None:
    ran = []
    for key, at in driver.cancelled_at.items():
        if not any(started > at for started in tally.started_at.get(key, ())):
            continue
        if at < driver.submitted_at[key] + driver.confirmed[key].delay:
            ran.append(key)
        else:
            score.cancelled_late += 1
    score.cancelled_ran = len(ran)
    score.problems += _listed("tasks ran after they were cancelled, long before they were due", ran)


def _listed(what: str, keys: Sequence[int]) -> list[str]:
    if not keys:
        return []
    more = ", ..." if len(keys) > _SHOWN else ""
    return [f"{len(keys)} {what}: keys {', '.join(map(str, keys[:_SHOWN]))}{more}"]


def held(depths: Mapping[str, Depth], shelves: Set[str]) -> dict[str, int]:
    """How many messages, ready and unacked, each queue holds that is not empty, and should be."""
    return {
        name: depth.ready + depth.unacked
        for name, depth in depths.items()
        if (depth.ready or depth.unacked) and name not in shelves
    }

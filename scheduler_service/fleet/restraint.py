"""What the limits of task functions and keys leave of what waits: the part that more slots could bring through.

The limits of a queue as a whole are in `scaling.Demand` itself. Each task that waits may be under two limits, that of
its function and that of its key, and many lanes are under the same one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from common.quotas import Quota, Scope
from scheduler_service.fleet.fairness import Waiting
from scheduler_service.fleet.quotas import Ledger


class Restraint(Struct, frozen=True):
    """What limits of functions and keys do to a queue.

    Attributes:
        usable: how many of the waiting tasks may be done within the target.
        slots: how many slots they may have at a time; None: no bound.
        seconds: how long what waits takes at least; None: something of it is paused.
    """

    usable: int
    slots: float | None = None
    seconds: float | None = 0.0


def restraint(waiting: Iterable[Waiting], ledger: Ledger, run: float, target: float) -> Restraint:
    """What the ledger's limits leave of what waits.

    Args:
        waiting: the lanes of a queue.
        ledger: the limits.
        run: seconds that a task takes, above 0.
        target: seconds within which the queue is to be drained, above 0.
    """
    usable, bounded = 0, True
    waits: dict[tuple[Scope, str], int] = {}
    left: dict[tuple[Scope, str], float] = {}
    for each in waiting:
        quotas = [quota for quota in _quotas(each, ledger) if _limits(quota)]
        bounded = bounded and bool(quotas)
        able = float(each.count)
        for quota in quotas:
            name = (quota.scope, quota.name)
            waits[name] = waits.get(name, 0) + each.count
            able = min(able, left.setdefault(name, _able(quota, run, target)))
        for quota in quotas:
            left[quota.scope, quota.name] -= able
        usable += int(able)
    named = [ledger.quota(*name) for name in waits]
    seconds = None
    if not any(quota.paused for quota in named):
        seconds = max((waits[quota.scope, quota.name] / _speed(quota, run) for quota in named), default=0.0)
    slots = sum(_speed(quota, run) * run for quota in named) if bounded and named else None
    return Restraint(usable, slots, seconds)


def _quotas(waiting: Waiting, ledger: Ledger) -> tuple[Quota, Quota]:
    return ledger.quota(Scope.TASK, waiting.lane.task), ledger.quota(Scope.KEY, waiting.lane.key)


def _limits(quota: Quota) -> bool:
    return quota.paused or quota.rate is not None or quota.concurrency is not None


def _speed(quota: Quota, run: float) -> float:
    """Tasks a second."""
    if quota.paused:
        return 0.0
    rate = math.inf if quota.rate is None else quota.rate.count / quota.rate.per
    return rate if quota.concurrency is None else min(rate, quota.concurrency / run)


def _able(quota: Quota, run: float, target: float) -> float:
    """How many tasks may be done within the target, or begun when they take longer."""
    return math.ceil(_speed(quota, run) * max(run, target))

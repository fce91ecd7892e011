"""How long a queue takes to run empty, and how many workers it should have. Plain arithmetic, no state.

A task needs one slot for its run time. So what arrives keeps ``accepted x run`` slots busy, what waits needs
``waiting x run`` seconds of slots, and to do that within the target it takes that many, divided by the target, but
never more than there are tasks: a second slot makes no task faster. Limits bound what more slots could do: those of the
queue, and those of the functions and keys of what waits (`restraint`).
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

SATURATED: Final = 10.0
"""When the oldest task has waited for so many seconds, what was finished lately is what the slots can do."""
OVERHEAD: Final = 0.005
"""Seconds that a slot is taken by the shortest task, about: messages, a bundle's turn."""
DEFAULT_SLOTS: Final = 50
"""Slots of a worker as long as none was seen."""


class Demand(Struct, frozen=True, kw_only=True):
    """What is known of a queue.

    Attributes:
        waiting: tasks that are queued and that workers of this queue could run.
        out: tasks that are dispatched and unfinished.
        accepted: tasks a second that come.
        finished: tasks a second that were finished lately.
        oldest: seconds for which the oldest that waits has done so.
        run: seconds that a task takes on average.
        slots: of live workers, as far as they are this queue's share.
        worker_slots: slots of one worker.
        rate: tasks a second that may start; None: no limit.
        concurrency: tasks that may be out; None: no limit.
        paused: nothing may start.
        usable: of those that wait, how many limits of functions and keys let be done within the target; None: all.
        bound: slots that these limits let be used; None: no bound.
        least: seconds that what waits takes because of them; None: something of it is paused.
    """

    waiting: int = 0
    out: int = 0
    accepted: float = 0.0
    finished: float = 0.0
    oldest: float = 0.0
    run: float = 0.1
    slots: float = 0.0
    worker_slots: float = DEFAULT_SLOTS
    rate: float | None = None
    concurrency: int | None = None
    paused: bool = False
    usable: int | None = None
    bound: float | None = None
    least: float | None = 0.0


def drain_seconds(demand: Demand) -> float | None:
    """Seconds until what waits now has been started and done; None when it never will be.

    Args:
        demand: what is known of the queue.

    Example:
        >>> drain_seconds(Demand(waiting=100, run=1.0, slots=10))
        10.0
    """
    if demand.waiting == 0:
        return 0.0
    if demand.paused or demand.slots <= 0 or demand.least is None:
        return None
    saturated = demand.oldest >= SATURATED and demand.finished > 0
    able = demand.finished if saturated else _parallel(demand, demand.slots) / max(demand.run, OVERHEAD)
    if demand.rate is not None:
        able = min(able, demand.rate)
    return max(demand.waiting / able, demand.least)


def recommended_workers(demand: Demand, target: float) -> int:
    """How many workers it takes to drain the queue within `target` seconds while more arrives.

    At least as many as what arrives needs, and what runs already has; 0 only when nothing waits, comes or runs.

    Args:
        demand: what is known of the queue.
        target: seconds, above 0.

    Example:
        >>> recommended_workers(Demand(waiting=6000, run=1.0, worker_slots=50), 60.0)
        2
    """
    if demand.paused:
        slots = float(demand.out)
    else:
        run = max(demand.run, OVERHEAD)
        usable = demand.waiting if demand.usable is None else min(demand.waiting, demand.usable)
        draining = min(usable * run / target, float(usable))
        slots = draining + demand.accepted * run
        if demand.bound is not None:
            # All that waits is bounded; what comes besides is finished as it comes, as some of the other is.
            slots = min(slots, max(demand.bound, demand.finished * run))
        if demand.rate is not None:
            slots = min(slots, demand.rate * run)
        slots = max(_parallel(demand, slots), float(demand.out))
    nothing = demand.waiting == 0 and demand.accepted <= 0
    idle = slots <= 0 and (demand.paused or demand.bound is not None or nothing)
    return 0 if idle else max(1, math.ceil(round(slots / max(demand.worker_slots, 1.0), 6)))


def _parallel(demand: Demand, slots: float) -> float:
    return slots if demand.concurrency is None else min(slots, float(demand.concurrency))

"""How many tasks of a queue may be out at a time, and how many travel together. Pure arithmetic.

The broker holds only what is about to run: enough that short tasks never starve the workers, and so little that of
long ones none waits there. So the window is the live slots plus `lead`, the tasks that finish within a horizon of
100 ms at the present rate::

    lead   = min(horizon x completion rate, horizon x slots / expected run time)
    window = slots + lead, at most the limit
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from common.wire import BUNDLE_TASKS
from scheduler_service.fleet.rates import SLOT

KEYED_HORIZON: Final = 0.05
"""Seconds, in place of 100 ms, while tasks with a fairness key wait: what is out cannot be overtaken by another key."""
EASY_HORIZON: Final = 0.02
"""The same while no more than `EASY` tasks of the queue complete in 100 ms: the next are there in time all the same."""
EASY: Final = 200
BUNDLE_RUN_SECONDS: Final = 0.02
BUNDLE_BYTES: Final = 256 * 1024


class Window(Struct, frozen=True):
    """The sizes for one queue now.

    Attributes:
        tasks: how many may be dispatched and unfinished.
        bundle: how many may travel in one message.
        lead: how many of `tasks` are beyond the slots.
        beyond: the same with its fraction, which counts when queues share workers and so their leads.
    """

    tasks: int
    bundle: int
    lead: int = 0
    beyond: float = 0.0


def keyed_horizon(completions: int) -> float:
    """Seconds of work that the broker holds beyond the slots while keys take turns.

    Args:
        completions: tasks completed in the last 100 ms. Of very many the scheduler looks at hundreds at a time, and
            less often; a lead shorter than that would leave slots idle.
    """
    return EASY_HORIZON if completions <= EASY else KEYED_HORIZON


def window(
    *,
    slots: int,
    workers: int,
    completions: int,
    expected_run: float,
    path: float,
    limit: int,
    share: float | None = None,
    horizon: float = SLOT,
) -> Window:
    """The window of a queue.

    Args:
        slots: live slots that serve it, at the moment.
        workers: live workers that serve it.
        completions: tasks completed in the last 100 ms.
        expected_run: seconds that a task of it is expected to run.
        path: the least seconds that the path took lately.
        limit: the most tasks a window may hold.
        share: the slots that serve it on average; `slots`, when it is not said.
        horizon: seconds of work that the broker holds beyond the slots, where the path is not slower.

    Returns:
        The window; all zero when no worker serves the queue.
    """
    share = slots if share is None else share
    if share <= 0 or workers <= 0:
        return Window(0, 1)
    horizon = max(horizon, 2 * path)
    lead = min(completions / SLOT * horizon, horizon * share / max(expected_run, 1e-6))
    by_time = int(BUNDLE_RUN_SECONDS / max(expected_run, 1e-6))
    bundle = max(1, min(int(lead) // workers, by_time, BUNDLE_TASKS))
    tasks = min(slots + int(lead), max(limit, slots))
    return Window(tasks, bundle, tasks - slots, min(lead, float(max(0, limit - slots))))

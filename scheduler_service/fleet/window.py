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

from scheduler_service.fleet.rates import SLOT

BUNDLE_RUN_SECONDS: Final = 0.02
BUNDLE_TASKS: Final = 100
BUNDLE_BYTES: Final = 256 * 1024


class Window(Struct, frozen=True):
    """The sizes for one queue now.

    Attributes:
        tasks: how many may be dispatched and unfinished.
        bundle: how many may travel in one message.
    """

    tasks: int
    bundle: int


def window(*, slots: int, workers: int, completions: int, expected_run: float, path: float, limit: int) -> Window:
    """The window of a queue.

    Args:
        slots: live slots that serve it.
        workers: live workers that serve it.
        completions: tasks completed in the last 100 ms.
        expected_run: seconds that a task of it is expected to run.
        path: the least seconds that the path took lately.
        limit: the most tasks a window may hold.

    Returns:
        The window; all zero when no worker serves the queue.
    """
    if slots <= 0 or workers <= 0:
        return Window(0, 1)
    horizon = max(SLOT, 2 * path)
    lead = min(completions / SLOT * horizon, horizon * slots / max(expected_run, 1e-6))
    by_time = int(BUNDLE_RUN_SECONDS / max(expected_run, 1e-6))
    bundle = max(1, min(int(lead) // workers, by_time, BUNDLE_TASKS))
    return Window(min(slots + int(lead), max(limit, slots)), bundle)

"""What is new about a task since the last look at it."""

from __future__ import annotations

from typing import Final, TypeAlias

from msgspec.structs import replace

from common.client.handles import is_terminal
from common.questions import Progress, TaskStatus

Update: TypeAlias = TaskStatus | Progress

INTERVAL: Final = 0.5
"""Seconds between two looks, unless the caller says otherwise; workers report progress as often."""
SHORTEST: Final = 0.1


class Changes:
    """Compares each status of one task with the one before.

    Attributes:
        over: the task is finished for good; nothing more will change.
    """

    def __init__(self) -> None:
        self.over = False
        self._status: TaskStatus | None = None
        self._progress: Progress | None = None

    def take(self, status: TaskStatus) -> Update | None:
        """The whole status when the task itself has changed, its progress when only that has, None otherwise."""
        self.over = is_terminal(status.state)
        # Attempts come only with questions about one task, and questions share messages; `failures` counts them anyway.
        progress, bare = status.progress, replace(status, progress=None, attempts=[])
        advanced, self._progress = progress != self._progress, progress
        changed, self._status = bare != self._status, bare
        if changed:
            return status
        return progress if advanced else None

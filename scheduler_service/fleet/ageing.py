"""In which order the priorities of a queue have their turns.

Strictly, the highest first. With *ageing*, each span of waiting counts as one step of priority, so a task of low
priority overtakes at last those of higher priority that came later, and none is starved for ever. It is the oldest
task of a level that counts, for all keys of the level: were each key to age by itself, one with a long backlog would
overtake all others of its priority.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from scheduler_service.fleet.fairness import FairQueue

FEW: Final = 100
"""Flows of a level that are always looked at; of more, only so often."""
REFRESH: Final = 0.25
"""Seconds for which the age of a level with more flows is kept."""


def in_order(levels: Mapping[int, FairQueue], ageing: float | None, wall: float) -> list[FairQueue]:
    """The levels of a queue, first those whose turn is first.

    Args:
        levels: by priority.
        ageing: seconds of waiting that count as one step of priority, or None.
        wall: the time, seconds since the epoch.
    """
    if len(levels) == 1:
        return list(levels.values())
    if ageing is None:
        return [levels[priority] for priority in sorted(levels, reverse=True)]
    effective = {priority: priority + _waited(level, wall) / ageing for priority, level in levels.items()}
    return [levels[priority] for priority in sorted(levels, key=lambda each: (effective[each], each), reverse=True)]


def _waited(level: FairQueue, wall: float) -> float:
    at, oldest = level.aged
    if len(level.flows) <= FEW or not at <= wall < at + REFRESH:
        # What may not go does not age: it would take the others of its level along.
        ages = [
            waiting.oldest
            for flow in level.flows.values()
            if not flow.parked
            for waiting in flow.lanes.values()
            if waiting.oldest is not None
        ]
        oldest = min(ages, default=wall)
        level.aged = (wall, oldest)
    return max(0.0, wall - oldest)

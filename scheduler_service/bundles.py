"""Packing dispatches into work messages. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.wire import Isolation
from scheduler_service.fleet.window import BUNDLE_BYTES
from scheduler_service.storage.claims import ClaimedTask

ENVELOPE = 160
"""Bytes of an assignment beside its arguments, about."""


def pack(claimed: Sequence[ClaimedTask], limits: Mapping[str, int]) -> list[list[ClaimedTask]]:
    """Bundles of one queue, one priority and one destination each; suspects travel alone.

    Args:
        claimed: dispatches.
        limits: for each queue, how many tasks a bundle may hold.

    Returns:
        The bundles in the order of their first tasks: one that is full must not overtake another that came before it
        and has room left, since the broker hands them out as they come.
    """
    bundles: list[list[ClaimedTask]] = []
    with_room: dict[tuple[str, int, str, bool], tuple[list[ClaimedTask], int]] = {}
    for task in claimed:
        if task.assignment.isolation is not Isolation.NONE:
            bundles.append([task])
            continue
        key = (task.queue, task.priority, task.worker, task.express)
        size = ENVELOPE + len(bytes(task.assignment.args)) + len(bytes(task.assignment.kwargs))
        bundle, total = with_room.pop(key, ([], 0))
        if not bundle or total + size > BUNDLE_BYTES:
            bundle, total = [], 0
            bundles.append(bundle)
        bundle.append(task)
        if len(bundle) < limits.get(task.queue, 1):
            with_room[key] = (bundle, total + size)
    return bundles

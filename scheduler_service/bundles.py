"""Packing dispatches into work messages. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.wire import Isolation
from scheduler_service.fleet.window import BUNDLE_BYTES
from scheduler_service.storage.claims import ClaimedTask

ENVELOPE = 160
"""Bytes of an assignment beside its arguments, about."""


def pack(claimed: Sequence[ClaimedTask], limits: dict[str, int]) -> Iterable[list[ClaimedTask]]:
    """Bundles of one queue, one priority and one destination each, in the order given; suspects travel alone.

    Args:
        claimed: dispatches.
        limits: for each queue, how many tasks a bundle may hold.
    """
    open_bundles: dict[tuple[str, int, str], tuple[list[ClaimedTask], int]] = {}
    for task in claimed:
        if task.assignment.isolation is not Isolation.NONE:
            yield [task]
            continue
        key = (task.queue, task.priority, task.worker)
        size = ENVELOPE + len(bytes(task.assignment.args)) + len(bytes(task.assignment.kwargs))
        bundle, total = open_bundles.pop(key, ([], 0))
        if bundle and total + size > BUNDLE_BYTES:
            yield bundle
            bundle, total = [], 0
        bundle.append(task)
        if len(bundle) >= limits.get(task.queue, 1):
            yield bundle
        else:
            open_bundles[key] = (bundle, total + size)
    for bundle, _ in open_bundles.values():
        yield bundle

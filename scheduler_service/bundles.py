"""Packing dispatches into work messages. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from common.wire import Isolation
from scheduler_service.fleet.window import BUNDLE_BYTES
from scheduler_service.storage.claims import ClaimedTask

ENVELOPE = 160
"""Bytes of an assignment beside its arguments, about."""


def pack(claimed: Sequence[ClaimedTask], limits: dict[str, int]) -> Iterable[list[ClaimedTask]]:
    """Bundles of one queue and one priority each, the highest priority first, else in the order given.

    Suspects travel alone.

    Args:
        claimed: dispatches.
        limits: for each queue, how many tasks a bundle may hold.
    """
    # One priority after the other: a full bundle must not overtake one of a higher priority that is not yet full.
    for _, same in groupby(sorted(claimed, key=_urgency), key=_urgency):
        yield from _pack(same, limits)


def _urgency(task: ClaimedTask) -> int:
    return -task.priority


def _pack(claimed: Iterable[ClaimedTask], limits: dict[str, int]) -> Iterable[list[ClaimedTask]]:
    open_bundles: dict[str, tuple[list[ClaimedTask], int]] = {}
    for task in claimed:
        if task.assignment.isolation is not Isolation.NONE:
            yield [task]
            continue
        size = ENVELOPE + len(bytes(task.assignment.args)) + len(bytes(task.assignment.kwargs))
        bundle, total = open_bundles.pop(task.queue, ([], 0))
        if bundle and total + size > BUNDLE_BYTES:
            yield bundle
            bundle, total = [], 0
        bundle.append(task)
        if len(bundle) >= limits.get(task.queue, 1):
            yield bundle
        else:
            open_bundles[task.queue] = (bundle, total + size)
    for bundle, _ in open_bundles.values():
        yield bundle

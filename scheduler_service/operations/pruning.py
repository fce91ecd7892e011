"""Forgetting what is old, a small batch at a time."""

from __future__ import annotations

from msgspec import Struct

from scheduler_service.storage import retention
from scheduler_service.storage.engine import Connection


class Pruned(Struct):
    """What one batch did.

    Attributes:
        tasks: tasks that were forgotten.
        parked: parked messages that were forgotten.
        next: where the walk goes on; None when what follows is too young.
    """

    tasks: int
    parked: int
    next: int | None


def prune(connection: Connection, after: int, ttl: float, limit: int, now: float) -> Pruned:
    """Look at the next `limit` tasks behind `after`, the oldest first, and forget those that are over.

    Args:
        connection: in a transaction.
        after: a place in the store order; 0 for the oldest.
        ttl: seconds for which a task is kept after its end when it does not say, and a parked message.
        limit: rows at most.
        now: the time, seconds since the epoch.
    """
    seen = retention.oldest(connection, after, limit)
    over = [
        (task.seq, task.id)
        for task in seen
        if task.ttl is None and task.finished_at is not None and task.finished_at + ttl <= now
    ]
    retention.forget(connection, over)
    numbers = [number for number, at in retention.oldest_parked(connection, limit) if at + ttl <= now]
    retention.forget_parked(connection, numbers)
    more = len(seen) == limit and seen[-1].submitted_at + ttl <= now
    return Pruned(len(over), len(numbers), seen[-1].seq if more else None)


def prune_own(connection: Connection, limit: int, now: float) -> int:
    """Forget up to `limit` tasks that said themselves for how long they are kept; returns how many."""
    over = retention.over_by_own_ttl(connection, now, limit)
    retention.forget(connection, over)
    return len(over)

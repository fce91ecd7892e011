"""Lanes: what queued tasks have in common that deciding about their turn looks at.

A lane is a queue, a priority, a task function, a fairness key and a set of required labels. Inside a lane nothing is
left to decide but store order, so the scheduler decides between lanes, of which it keeps the numbers, and the store
finds the next tasks of a lane by one index. The number of a lane is computed from what it is, so nobody has to hand it
out or to keep it, and it is the same for every scheduler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from scheduler_service.storage.lanes import required
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.tasks import NewTask, StoredTask, due_since

_SEPARATOR = "\x00"


class Lane(Struct, frozen=True, gc=False):
    """What a number stands for.

    Attributes:
        number: from 0 to 2**63 - 1.
        queue, priority: where its tasks wait.
        task: the task function.
        key: whose tasks; empty: nobody's in particular.
        requires: labels that a worker has to have.
    """

    number: int
    queue: str
    priority: int
    task: str
    key: str = ""
    requires: tuple[str, ...] = ()


def lane(queue: str, priority: int, task: str, key: str | None = None, requires: Sequence[str] | None = None) -> Lane:
    """The lane of such tasks.

    Example:
        >>> lane("email", 4, "send") == lane("email", 4, "send", "", ())
        True
    """
    labels = tuple(sorted(set(requires))) if requires else ()
    name = _SEPARATOR.join((queue, str(priority), task, key or "", *labels))
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1
    return Lane(number, queue, priority, task, key or "", labels)


def lane_of(stored: StoredTask) -> Lane:
    """The lane in which a stored task waits, or did."""
    return Lane(stored.lane, stored.queue, stored.priority, stored.name, stored.key, required(stored.options))


def lane_of_new(task: NewTask) -> Lane:
    """The lane in which a task that was just stored waits."""
    message = task.message
    if message.options is None:
        return Lane(task.lane, message.queue, message.priority, message.task)
    key, requires = message.options.key or "", message.options.requires or ()
    return Lane(task.lane, message.queue, message.priority, message.task, key, requires)


def lane_after(moved: Moved) -> Lane:
    """The lane in which a moved task waits now."""
    stored = moved.stored
    return Lane(moved.lane, moved.queue, moved.priority, stored.name, stored.key, required(stored.options))


def due(stored: StoredTask) -> float:
    """When a stored task first became due, seconds since the epoch."""
    return stored.submitted_at if stored.options is None else due_since(stored.options, stored.submitted_at)

"""What the worker's parts say about themselves; metrics, logs and tests subscribe. One event for each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct


class Received(Struct, frozen=True, gc=False):
    """A bundle arrived.

    Attributes:
        queue: the queue it came from.
        tasks: how many tasks it carries.
        redelivered: the broker had handed it to somebody before, so nothing of it is run.
    """

    queue: str
    tasks: int
    redelivered: bool


class CommandUnreadable(Struct, frozen=True, gc=False):
    """A control message could not be read, and was ignored."""


class Undecodable(Struct, frozen=True, gc=False):
    """Something in a work queue could not be decoded, and goes to the dead-letter exchange."""

    queue: str


class Started(Struct, frozen=True, gc=False):
    """Tasks were given to a runtime.

    Attributes:
        waits: for each task its queue and the seconds it waited here for a slot.
        suspects: how many for each queue run in a process of their own.
    """

    waits: Mapping[str, Sequence[float]]
    suspects: Mapping[str, int]


class Completed(Struct, frozen=True, gc=False):
    """Tasks of one function ended the same way.

    Attributes:
        queue, task: where from, and which function.
        status: ``succeeded`` or ``failed``.
        run_seconds: the run time of each task.
    """

    queue: str
    task: str
    status: str
    run_seconds: Sequence[float]


class Returned(Struct, frozen=True, gc=False):
    """Leases were given back without having been run; `reason` is one of `common.wire.ReturnReason`."""

    queue: str
    reason: str
    count: int


class Held(Struct, frozen=True, gc=False):
    """Deliveries of long-running tasks were answered with `held`."""

    queue: str
    count: int


class Replied(Struct, frozen=True, gc=False):
    """A reply was confirmed; `outcomes` is how many it carried."""

    outcomes: int


class LoopLag(Struct, frozen=True, gc=False):
    """How late the event loop of the coroutine handlers ran a probe. A handler that blocks it shows here."""

    seconds: float


class GivenUp(Struct, frozen=True, gc=False):
    """A task function did not end after its hard timeout; it runs on without a slot."""

    queue: str
    task: str


class LoopBlocked(Struct, frozen=True, gc=False):
    """A coroutine function blocked the event loop of all coroutine functions for longer than is good."""

    task: str


class ProcessEnded(Struct, frozen=True, gc=False):
    """A process of the pool has ended.

    Attributes:
        reason: ``recycled``, ``killed`` (by the worker: cancelled or timed out) or ``died``.
    """

    reason: str


class StoodStill(Struct, frozen=True, gc=False):
    """This worker stood still for so long, or was kept from hearing anything."""

    seconds: float


class SlotsChanged(Struct, frozen=True, gc=False):
    """The worker takes fewer tasks at a time because of its load, or more again.

    Attributes:
        before, now: how many.
    """

    before: int
    now: int


class Slow(Struct, frozen=True, gc=False):
    """A task runs far beyond its function's usual time; told once for each attempt."""

    queue: str
    task: str

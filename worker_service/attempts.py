"""What the worker has in its hands: delivered bundles, the attempts in them, and the leases they make it hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any, Final, Protocol

from common.context import TaskContext
from common.options import Policy, policy_of
from common.wire import Assignment
from worker_service.handlers import Handler

REMEMBERED: Final = 10_000
"""How many answered leases are remembered, so that a second copy of one is not run again."""


class Settleable(Protocol):
    """A delivery, as far as this module needs to know it (`common.broker.Delivery`)."""

    def ack(self) -> Coroutine[Any, Any, bool]:
        """Settle it. False when its channel is gone, and nothing happens."""


class DeliveredBundle:
    """One delivery, acked once everything in it has been answered.

    Args:
        delivery: what to ack.
        queue: the queue it came from.
    Attributes:
        open: how much in it has not been answered.
        number: the lowest number of its dispatches.
        express: what is in it starts before what came otherwise.
    """

    __slots__ = ("delivery", "express", "number", "open", "queue")

    def __init__(self, delivery: Settleable, queue: str) -> None:
        self.delivery = delivery
        self.queue = queue
        self.open = 0
        self.number = 0
        self.express = False


class Attempt:
    """One dispatch of one task, in this worker.

    Attributes:
        assignment: the message.
        bundle: the delivery it came in.
        arrived: when, by the event loop's clock.
        started: when it was given to a runtime; 0 before.
        begun: a process has been given it, so it is too late to give it back as not begun.
        handler: what runs it; set when it is accepted.
        held: `held` has been replied for it, or will be: it goes on running without its delivery.
        settled: it does not count any more among what is open in its bundle.
        policy: decorator and submission taken together, when they limit its run; None when nothing does.
        context: what it knows about itself; set by the runtime.
    """

    __slots__ = (
        "arrived",
        "assignment",
        "begun",
        "bundle",
        "context",
        "handler",
        "held",
        "policy",
        "settled",
        "started",
    )

    handler: Handler
    context: TaskContext

    def __init__(self, assignment: Assignment, bundle: DeliveredBundle, arrived: float) -> None:
        self.assignment = assignment
        self.bundle = bundle
        self.arrived = arrived
        self.started = 0.0
        self.begun = False
        self.held = False
        self.settled = False
        self.policy: Policy | None = None

    @property
    def effective_policy(self) -> Policy:
        """Decorator and submission taken together."""
        return self.policy or policy_of(self.assignment.policy, self.handler.policy)


class Leases:
    """The leases that this worker holds: from the decoding of their bundle until their outcome is confirmed."""

    def __init__(self) -> None:
        self._held: dict[str, Attempt] = {}
        self._answered: set[str] = set()
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._held.values()))

    def knows(self, lease: str) -> bool:
        """Whether it is held, or was answered not long ago: then a second copy of it must not run."""
        return lease in self._held or lease in self._answered

    def hold(self, attempt: Attempt) -> None:
        """List the lease in the beats from now on."""
        self._held[attempt.assignment.lease] = attempt

    def answered(self, attempt: Attempt) -> None:
        """Its outcome is confirmed."""
        lease = attempt.assignment.lease
        # A redelivered copy of a lease that still runs here is answered too, and must not end the one that runs.
        if self._held.get(lease) is attempt:
            del self._held[lease]
        if lease not in self._answered:
            self._answered.add(lease)
            self._order.append(lease)
            if len(self._order) > REMEMBERED:
                self._answered.discard(self._order.popleft())

    def split(self, now: float) -> tuple[list[str], list[float], list[str]]:
        """The leases that have started, for how many seconds each of them has run, and the leases that have not.

        Args:
            now: by the event loop's clock.
        """
        running: list[str] = []
        ages: list[float] = []
        waiting: list[str] = []
        for lease, attempt in self._held.items():
            if attempt.started:
                running.append(lease)
                ages.append(round(max(0.0, now - attempt.started), 3))
            else:
                waiting.append(lease)
        return running, ages, waiting

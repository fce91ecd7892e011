"""Why something waits, in a sentence: for the status of a task, and for a queue as a whole."""

from __future__ import annotations

from collections.abc import Collection

from common.quotas import Scope
from scheduler_service.fleet.capability import Capability
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import Ledger

_CALLED = {Scope.QUEUE: "the queue", Scope.TASK: "the task function", Scope.KEY: "the key"}


class Reasons:
    """Reads from what decides about turns.

    Args:
        capability: who can run what.
        ledger: quotas, and what was used of them.
        searched: queues whose dispatch waits until what was lost there is known.
    """

    def __init__(self, capability: Capability, ledger: Ledger, searched: Collection[str]) -> None:
        self._capability = capability
        self._ledger = ledger
        self._searched = searched

    def why(self, lane: Lane, now: float) -> str:
        """Why no task of `lane` can be dispatched now; empty when it only has to wait for its turn.

        Args:
            lane: where it waits.
            now: monotonic seconds.
        """
        names = {Scope.QUEUE: lane.queue, Scope.TASK: lane.task, Scope.KEY: lane.key}
        for scope, name in names.items():
            if name and self._ledger.quota(scope, name).paused:
                return f"{_CALLED[scope]} {name!r} is paused"
        if cannot := self.cannot(lane):
            return cannot
        if lane.queue in self._searched:
            return f"dispatch from the queue {lane.queue!r} waits until it is known what was lost there"
        for scope, name in names.items():
            if name and (reached := self.limit(scope, name, now)):
                return reached
        return ""

    def cannot(self, lane: Lane) -> str:
        """Why no live worker can run `lane`; empty when one can."""
        return self._capability.why_not(lane)

    def limit(self, scope: Scope, name: str, now: float) -> str:
        """Which limit of `name` is reached now (monotonic seconds); empty when none is."""
        rooms = {Scope.QUEUE: self._ledger.queue_room, Scope.TASK: self._ledger.task_room}
        if rooms.get(scope, self._ledger.key_room)(name, now) > 0:
            return ""
        quota = self._ledger.quota(scope, name)
        if quota.paused:
            return f"{_CALLED[scope]} {name!r} is paused"
        if quota.concurrency is not None and self._ledger.out(scope, name) >= quota.concurrency:
            return f"{_CALLED[scope]} {name!r} has reached its limit of {quota.concurrency:,} at a time"
        return f"{_CALLED[scope]} {name!r} has reached its rate of {quota.rate}"

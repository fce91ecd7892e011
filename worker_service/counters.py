"""What this worker has done since its start, for the command `stats`."""

from __future__ import annotations

from collections import defaultdict

from msgspec import Struct

from common.telemetry import Telemetry
from worker_service.events import Completed, GivenUp, Held, Received, Returned, Slow, Started, Undecodable


class FunctionCount(Struct):
    """Of one task function.

    Attributes:
        succeeded, failed: how many of its tasks have ended so.
        run_seconds: for which they have run, all together.
    """

    succeeded: int = 0
    failed: int = 0
    run_seconds: float = 0.0


class Counters:
    """Counts events; bounded by the registered functions and the kinds of reasons.

    Args:
        telemetry: where they come from.

    Attributes:
        received, redelivered, started, held, given_up, slow, undecodable: tasks.
        returned: tasks given back, by reason.
        functions: by name.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self.received = self.redelivered = self.started = 0
        self.held = self.given_up = self.slow = self.undecodable = 0
        self.returned: dict[str, int] = defaultdict(int)
        self.functions: dict[str, FunctionCount] = defaultdict(FunctionCount)
        telemetry.on(Received, self._on_received)
        telemetry.on(Started, self._on_started)
        telemetry.on(Completed, self._on_completed)
        telemetry.on(Returned, self._on_returned)
        telemetry.on(Held, self._on_held)
        telemetry.on(GivenUp, self._on_given_up)
        telemetry.on(Slow, self._on_slow)
        telemetry.on(Undecodable, self._on_undecodable)

    def as_data(self) -> dict[str, object]:
        """All of it, for JSON."""
        totals = self.functions.values()
        return {
            "received": self.received,
            "redelivered": self.redelivered,
            "started": self.started,
            "succeeded": sum(each.succeeded for each in totals),
            "failed": sum(each.failed for each in totals),
            "returned": dict(self.returned),
            "held": self.held,
            "given_up": self.given_up,
            "slow": self.slow,
            "undecodable": self.undecodable,
            "functions": dict(self.functions),
        }

    def _on_received(self, event: Received) -> None:
        self.received += event.tasks
        if event.redelivered:
            self.redelivered += event.tasks

    def _on_started(self, event: Started) -> None:
        self.started += sum(map(len, event.waits.values()))

    def _on_completed(self, event: Completed) -> None:
        function = self.functions[event.task]
        if event.status == "succeeded":
            function.succeeded += len(event.run_seconds)
        else:
            function.failed += len(event.run_seconds)
        function.run_seconds += sum(event.run_seconds)

    def _on_returned(self, event: Returned) -> None:
        self.returned[event.reason] += event.count

    def _on_held(self, event: Held) -> None:
        self.held += event.count

    def _on_given_up(self, event: GivenUp) -> None:
        self.given_up += 1

    def _on_slow(self, event: Slow) -> None:
        self.slow += 1

    def _on_undecodable(self, event: Undecodable) -> None:
        self.undecodable += 1

"""Starts a service with one of its rules taken out, to see that the tests notice.

python -m tests.system.mutants MUTANT SERVICE ARGUMENTS...     # SERVICE is scheduler_service or worker_service

Each mutant replaces one function in the service's process; the product knows nothing of it.
"""

import asyncio
import runpy
import sys
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace


def acks_before_the_reply() -> None:
    """A worker settles a bundle before its outcomes are confirmed."""
    from worker_service.replier import Replier

    send = Replier._send

    async def mutated(self: Replier, pack: Any) -> None:
        for bundle in {attempt.bundle for attempt, _ in pack}:
            await bundle.delivery.ack()
        await asyncio.sleep(0.1)  # until it has reached the broker
        await send(self, pack)

    Replier._send = mutated  # type: ignore[method-assign]


def acks_before_the_commit() -> None:
    """The scheduler settles a batch before it is stored."""
    from common.broker.consumer import BatchConsumer

    async def mutated(self: BatchConsumer, batch: Any) -> None:
        if not self._no_ack:
            await self._handled(batch)
            await self._ack()
            await asyncio.sleep(0.1)  # until it has reached the broker
        await self._handle(batch)

    BatchConsumer._settle = mutated  # type: ignore[method-assign]


def mark_claims_everything() -> None:
    """The store's mark says of every dispatch that the broker has confirmed it."""
    from scheduler_service.fleet.flights import Flights

    Flights.confirmed_up_to = property(lambda self: self._number)  # type: ignore[assignment, method-assign]


def any_lease_will_do() -> None:
    """The transition takes an outcome for whatever lease it is."""
    from scheduler_service.operations import applying as module

    applying: Any = module
    decide = applying.transition

    def mutated(task: Any, event: Any, now: float, rules: Any) -> Any:
        if hasattr(event, "lease"):
            event = replace(event, lease=task.lease)
        return decide(task, event, now, rules)

    applying.transition = mutated


def runs_what_is_redelivered() -> None:
    """A worker runs a bundle that somebody else has had."""
    from common.broker.subscription import Delivery

    initialise = Delivery.__init__

    def mutated(self: Delivery, *arguments: Any) -> None:
        initialise(self, *arguments)
        self.redelivered = False

    Delivery.__init__ = mutated  # type: ignore[method-assign, assignment]


def limits_deliveries() -> None:
    """The broker drops a message when its first consumer dies."""
    from common import topology

    topology.NO_DELIVERY_LIMIT = 0
    topology._quorum.__defaults__ = (0,)


def rescues_nothing() -> None:
    """Nobody looks after what is in nobody's hands."""
    from scheduler_service.rescuer import Rescuer

    async def mutated(self: Rescuer, candidates: Any) -> None:
        return None

    Rescuer._judge = mutated  # type: ignore[method-assign]


def nothing() -> None:
    """Everything is as it should be."""


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        acks_before_the_reply,
        acks_before_the_commit,
        mark_claims_everything,
        any_lease_will_do,
        runs_what_is_redelivered,
        limits_deliveries,
        rescues_nothing,
        nothing,
    )
}

if __name__ == "__main__":
    name, service, *rest = sys.argv[1:]
    MUTANTS[name]()
    sys.argv = [service, *rest]
    runpy.run_module(service, run_name="__main__", alter_sys=True)

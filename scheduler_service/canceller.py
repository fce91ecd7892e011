"""Canceller: cancels tasks, and tells workers until none of them holds a lease that is over.

A cancel is done when it is committed: from then on the task is `cancelled`, whatever an outcome says that comes later.
What is out is then still somewhere: its flight lands when its worker gives it back, or when nobody holds it any more
(the rescuer), and until then its slot counts as taken::

    commit -> Control CANCEL to all workers -> `returned`, or any other answer -> the flight lands

A control message is not kept for a worker that is away. So the beats are looked through each second, and a worker that
lists a lease that is cancelled, or that no dispatch of ours has any more (it was given to another meanwhile, or it was
cancelled before this scheduler started), is told again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from common.administration import Change
from common.background import Background, Report
from common.broker import Publisher
from common.errors import BrokerError, PublishRefused
from common.failpoints import reached
from common.questions import Cancel, Cancelled, Filter
from common.states import Rules
from common.topology import Topology
from common.wire import MAX_PACK_ITEMS, Control, ControlVerb, Message, decode
from scheduler_service import operations
from scheduler_service.asking import PATIENCE, Asker
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flights
from scheduler_service.operations import Ended
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two looks at the beats. A beat may be older than an answer, so only what two looks see counts."""


class Canceller:
    """Answers `Cancel`, and sends `Control` with the verb `cancel`.

    Args:
        publisher: the publishing connection's publisher.
        topology: the names.
        store: where tasks are.
        flights: what is out.
        directory: the live workers.
        rules: the limits of the transition function.
        ended: given what was cancelled.
        record: writes down that an operator purges a queue.
        doubt: called when a transaction may or may not have been committed.
        certain: whether all that is out in the store is known to be out.
        report: told when the loop dies.
    """

    def __init__(
        self,
        publisher: Publisher,
        topology: Topology,
        store: Store,
        flights: Flights,
        directory: Directory,
        rules: Rules,
        *,
        ended: Callable[[Sequence[Ended]], None],
        record: Callable[[Change], Awaitable[None]],
        doubt: Callable[[], None],
        certain: Callable[[], bool],
        report: Report,
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        self._store = store
        self._flights = flights
        self._directory = directory
        self._rules = rules
        self._ended = ended
        self._record = record
        self._doubt = doubt
        self._certain = certain
        self._seen: dict[str, tuple[int, frozenset[str]]] = {}
        self._loop = Background("cancel", self._run, report)

    async def start(self) -> None:
        """Start looking at the beats."""
        self._loop.start()

    async def drain(self) -> None:
        """Look no more."""
        await self._loop.stop()

    async def stop(self) -> None:
        """Look no more."""
        await self._loop.stop()

    async def cancel(self, asker: Asker, body: bytes) -> Message:
        """Cancel a page of tasks; it may be short, even empty, and yet not be the last."""
        ask = decode(Cancel, body)
        if ask.where.ids is None and ask.after is None:
            if asker.administrator and (queue := _purged(ask.where)):
                detail = f"cancel what is {' or '.join(ask.where.states or ('unfinished',))}"
                await self._record(Change(time.time(), asker.user, "purge", queue, detail))
            # Every question may come twice, this one also when its caller is long done, and what is submitted after
            # it is not meant. So the first answer is only a place, which the next questions repeat.
            return Cancelled({}, next=await self._store.run(operations.beyond))
        answer = Cancelled({}, next=ask.after)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await reached("canceller.before_commit")
                page = await self._store.run(
                    operations.cancel,
                    ask.where,
                    asker.owner,
                    answer.next,
                    MAX_PACK_ITEMS - len(answer.states),
                    self._rules,
                    time.time(),
                )
                await reached("canceller.after_commit")
            except BaseException:
                self._doubt()
                raise
            self._ended(page.ended)
            await self._order(operations.leases_of(page.ended))
            await reached("canceller.after_order")
            answer.states |= page.states
            answer.unknown = page.unknown
            answer.next = page.next
            if page.next is None or len(answer.states) >= MAX_PACK_ITEMS or time.monotonic() > deadline:
                return answer

    async def _order(self, leases: Sequence[str]) -> None:
        if leases:
            self._flights.cancel(leases)
            await self._send("all", leases)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for worker, leases in self._over().items():
                await self._send(f"worker.{worker}", leases)

    def _over(self) -> dict[str, list[str]]:
        """The leases that are over and were so at the last look too, by the worker that lists them still."""
        found: dict[str, list[str]] = {}
        seen: dict[str, tuple[int, frozenset[str]]] = {}
        if not self._certain():
            self._seen.clear()
            return found
        flights = self._flights.by_lease
        for name, worker in self._directory.workers.items():
            number = worker.beat.number
            over = frozenset(
                lease for lease in worker.leases if (flight := flights.get(lease)) is None or flight.cancelled
            )
            before, over_before = self._seen.get(name, (number, frozenset()))
            if number > before and (again := over & over_before):
                found[name] = list(again)
            seen[name] = (number, over)
        self._seen = seen
        return found

    async def _send(self, key: str, leases: Sequence[str]) -> None:
        for at in range(0, len(leases), MAX_PACK_ITEMS):
            message = Control(ControlVerb.CANCEL, leases=list(leases[at : at + MAX_PACK_ITEMS]))
            try:
                await self._publisher.publish(self._topology.control_exchange.name, key, message, persistent=False)
            except BrokerError as error:
                gone = isinstance(error, PublishRefused) and error.unroutable
                log.log(
                    logging.DEBUG if gone else logging.WARNING,
                    "workers were not told what is cancelled; they will be when they list it",
                    extra={"to": key, "leases": len(leases), "reason": str(error)},
                )
                return


def _purged(where: Filter) -> str:
    """The queue of which all that waits is cancelled, if that is what is asked for."""
    return where.queue or "" if where == Filter(queue=where.queue, states=where.states) else ""

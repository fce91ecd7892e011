"""Auditor: writes down what operators change, tells it to whoever listens, and answers who has changed what."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from common.administration import Change, ChangeMade, Changes, ListChanges
from common.broker import Publisher
from common.errors import BrokerError
from common.topology import Topology
from common.wire import Message, decode
from scheduler_service import operations
from scheduler_service.asking import Asker
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

TIMEOUT: Final = 5.0
"""Seconds to wait for the confirm of an event."""
PENDING: Final = 1000
"""Events on their way at most; what is more is only in the store."""


class Auditor:
    """Answers `ListChanges`, and publishes `ChangeMade` to the event exchange with the key ``change.<what>``.

    The store is what counts. An event is for those who listen now, and is not repeated.

    Args:
        store: where changes are.
        publisher: the publishing connection's publisher.
        topology: the names.
    """

    def __init__(self, store: Store, publisher: Publisher, topology: Topology) -> None:
        self._store = store
        self._publisher = publisher
        self._topology = topology
        self._telling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing to start."""

    async def drain(self) -> None:
        """Wait until all that was changed is told."""
        if self._telling:
            await asyncio.wait(self._telling)

    async def stop(self) -> None:
        """Tell no more."""
        for task in self._telling:
            task.cancel()
        if self._telling:
            await asyncio.wait(self._telling)

    async def record(self, change: Change) -> None:
        """Write down what is about to be done, and announce it."""
        await self._store.run(operations.record_change, change)
        self.announce(change)

    def announce(self, change: Change) -> None:
        """Tell what was changed and written down."""
        log.info(
            "an operator made a change",
            extra={"user": change.user, "what": change.what, "whose": change.name, "detail": change.detail},
        )
        if len(self._telling) >= PENDING:
            return
        task = asyncio.create_task(self._publish(change), name="tell what was changed")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def answer(self, asker: Asker, body: bytes) -> Message:
        """A page of changes, the newest first: to operators everybody's, to others their own."""
        ask = decode(ListChanges, body)
        found, following = await self._store.run(operations.list_changes, ask.after, ask.limit)
        if not asker.administrator:
            found = [change for change in found if change.user == asker.user]
        return Changes(found, following)

    async def _publish(self, change: Change) -> None:
        try:
            await self._publisher.publish(
                self._topology.event_exchange.name,
                f"change.{change.what}",
                ChangeMade(change),
                persistent=False,
                mandatory=False,
                timeout=TIMEOUT,
            )
        except BrokerError as error:
            log.warning("a change was not told", extra={"what": change.what, "reason": str(error)})

"""Teller: tells clients the results of their tasks, at the reply queue that they named.

Telling is a courtesy on top of the store: a client that was not told asks. So a queue that is gone is counted and
dropped, and a failed publish is not tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from common.broker import Publisher
from common.errors import BrokerError, PublishRefused
from common.telemetry import Telemetry
from common.wire import MAX_PACK_BYTES, MAX_PACK_ITEMS, TaskResult
from common.wire import Told as ToldMessage
from scheduler_service import operations
from scheduler_service.events import Told
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds to wait for the confirm of one message to a client."""
ENVELOPE = 120


class Teller:
    """Publishes results to clients.

    Args:
        publisher: the publishing connection's publisher.
        store: where results are read.
        telemetry: where `Told` goes.
    """

    def __init__(self, publisher: Publisher, store: Store, telemetry: Telemetry) -> None:
        self._publisher = publisher
        self._store = store
        self._telemetry = telemetry

    async def start(self) -> None:
        """Nothing to start."""

    async def drain(self) -> None:
        """Nothing: whoever tells waits for it."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def tell(self, results: Mapping[str, Sequence[TaskResult]]) -> None:
        """Tell results by reply queue; returns when each message is confirmed or given up."""
        messages = [
            self._publish(reply_to, ToldMessage(pack)) for reply_to, each in results.items() for pack in packs(each)
        ]
        if len(messages) == 1:
            await messages[0]
        elif messages:
            await asyncio.gather(*messages)

    async def tell_stored(self, ids: Mapping[str, Sequence[str]]) -> None:
        """Tell stored results by reply queue, page by page, so that large ones are not in memory all at once.

        Raises:
            StoreUnavailable: the results cannot be read now.
        """
        for reply_to, each in ids.items():
            for page in await self._store.run(operations.result_pages, each):
                await self.tell({reply_to: await self._store.run(operations.results_of, page)})

    async def _publish(self, reply_to: str, message: ToldMessage) -> None:
        try:
            await self._publisher.publish("", reply_to, message, persistent=False, timeout=TIMEOUT)
        except BrokerError as error:
            gone = isinstance(error, PublishRefused) and error.unroutable
            log.debug("a client was not told", extra={"reply_to": reply_to, "reason": str(error)})
            if gone:
                self._telemetry.emit(Told(0, len(message.results)))
        else:
            self._telemetry.emit(Told(len(message.results), 0))


def packs(results: Sequence[TaskResult]) -> Iterable[list[TaskResult]]:
    """`results` in packs of at most `MAX_PACK_ITEMS` and about `MAX_PACK_BYTES`."""
    pack: list[TaskResult] = []
    size = 0
    for result in results:
        more = ENVELOPE + len(bytes(result.result))
        if result.error is not None:
            more += len(result.error.message) + len(result.error.traceback)
        if pack and (len(pack) >= MAX_PACK_ITEMS or size + more > MAX_PACK_BYTES):
            yield pack
            pack, size = [], 0
        pack.append(result)
        size += more
    if pack:
        yield pack

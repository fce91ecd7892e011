"""What cannot be decoded: published to the dead-letter exchange, where the scheduler parks it, and only then acked.

Rejecting it instead would count as a delivery on some brokers and not on others, and would say no reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from common.background import Background, Report
from common.backoff import reconnect_wait
from common.broker import Publisher
from common.errors import BrokerError
from worker_service.attempts import DeliveredBundle
from worker_service.results import safe

REASON_HEADER: Final = "reason"
QUEUE_HEADER: Final = "queue"
WORKER_HEADER: Final = "worker"

Bury = Callable[[DeliveredBundle, bytes, str | None, str], None]
"""`DeadLetters.bury`, as the consumer sees it."""

_log = logging.getLogger(__name__)


class _Letter(NamedTuple):
    bundle: DeliveredBundle
    body: bytes
    message_type: str | None
    reason: str


class DeadLetters:
    """Sends what cannot be decoded to where it is kept.

    Args:
        worker: this worker's id.
        publisher: with a channel of its own, so that a refusal here takes no reply with it.
        exchange: the dead-letter exchange's name.
        report: told of a crash.
    """

    def __init__(self, worker: str, publisher: Publisher, exchange: str, report: Report | None = None) -> None:
        self._worker = worker
        self._publisher = publisher
        self._exchange = exchange
        self._letters: asyncio.Queue[_Letter] = asyncio.Queue()  # bounded by the consumers' prefetch
        self._background = Background("dead letters", self._work, report)

    def bury(self, bundle: DeliveredBundle, body: bytes, message_type: str | None, reason: str) -> None:
        """Publish `body` until it is confirmed; it counts as one thing open in `bundle`."""
        self._letters.put_nowait(_Letter(bundle, body, message_type, reason))

    async def start(self) -> None:
        """Start sending."""
        self._background.start()

    async def drain(self) -> None:
        """Wait until all is confirmed."""
        await self._letters.join()

    async def stop(self) -> None:
        """Give up what is not confirmed: the broker delivers it again."""
        await self._background.stop()

    async def _work(self) -> None:
        while True:
            letter = await self._letters.get()
            await self._send(letter)
            letter.bundle.open -= 1
            if not letter.bundle.open:
                await letter.bundle.delivery.ack()
            self._letters.task_done()

    async def _send(self, letter: _Letter) -> None:
        headers = {
            REASON_HEADER: safe(letter.reason, 500),
            QUEUE_HEADER: letter.bundle.queue,
            WORKER_HEADER: self._worker,
        }
        failures = 0
        while True:
            try:
                await self._publisher.ready()
                await self._publisher.publish(
                    self._exchange, "dead", letter.body, type=letter.message_type, headers=headers
                )
                return
            except BrokerError as error:
                level = logging.ERROR if failures in (3, 30) else logging.DEBUG
                _log.log(level, "a dead letter is not confirmed, it is sent again", extra={"reason": str(error)})
            await asyncio.sleep(reconnect_wait(failures))
            failures += 1

"""Listener: hears what workers say: their beats, which keep the directory, how far tasks are, answers to commands."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.broker import BatchConsumer, Connection, Delivery
from common.errors import WireError
from common.ids import new_nonce
from common.questions import Progress, ProgressReport
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Beat, WorkerAnswer, check_type, decode
from scheduler_service.events import BeatUnreadable
from scheduler_service.fleet.directory import Directory

log = logging.getLogger(__name__)


OFFER_EVERY = 5.0
"""Seconds after which missing work queues are made again: the broker may have lost them."""


class Listener:
    """The consumer of beats.

    Args:
        connection: the consuming connection.
        topology: the names.
        directory: the live workers.
        asked: given each worker whose beat asks for the mark, and its token, before anything is dispatched to it.
        heard: called after each batch of beats.
        progressed: given how far tasks are, by lease.
        answered: given what workers answer to commands.
        offer: makes the work queues that workers serve.
        telemetry: where `BeatUnreadable` goes.
    """

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        directory: Directory,
        *,
        asked: Callable[[str, str], None],
        heard: Callable[[], None],
        progressed: Callable[[Mapping[str, Progress]], None],
        answered: Callable[[WorkerAnswer], None],
        offer: Callable[[Sequence[str]], Awaitable[None]],
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._directory = directory
        self._asked = asked
        self._heard = heard
        self._progressed = progressed
        self._answered = answered
        self._offer = offer
        self._offered_at = 0.0
        self.consumer = BatchConsumer(
            connection,
            lambda: topology.beat_queue(connection.user, new_nonce()),
            self._handle,
            prefetch=0,
            no_ack=True,
        )

    async def start(self) -> None:
        """Start hearing."""
        await self.consumer.start()

    async def drain(self) -> None:
        """Nothing: beats are needed until the end."""

    async def stop(self) -> None:
        """Stop hearing."""
        await self.consumer.stop()

    async def _handle(self, deliveries: list[Delivery]) -> None:
        now = time.monotonic()
        before = set(self._directory.workers)
        beats = 0
        for delivery in deliveries:
            try:
                if delivery.type == ProgressReport.TYPE:
                    self._progressed(decode(ProgressReport, delivery.body).progress)
                    continue
                if delivery.type == WorkerAnswer.TYPE:
                    self._answered(decode(WorkerAnswer, delivery.body))
                    continue
                check_type(Beat, delivery.type)
                beat = decode(Beat, delivery.body)
                self._directory.hear(beat, now)
                if beat.asking:
                    self._asked(beat.worker, beat.asking)
                beats += 1
            except WireError as error:
                log.warning("a beat cannot be read", extra={"reason": str(error)})
                self._telemetry.emit(BeatUnreadable())
        if beats == 0:
            return
        after = set(self._directory.workers)
        for worker in after - before:
            log.info("a worker came", extra={"worker": worker})
        for worker in before - after:
            log.info("a worker left", extra={"worker": worker})
        self._heard()
        if after - before or now - self._offered_at > OFFER_EVERY:
            self._offered_at = now
            await self._offer(sorted(self._directory.queues()))

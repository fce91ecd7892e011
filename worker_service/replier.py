"""Replies: outcomes in confirmed messages, and only then the acks.

::

    outcomes that are there by now ──> one message ──> confirm ──> leases released ──> bundles with nothing open: ack
                                          │ failed or unknown: the same message again, for ever, with backoff

What comes while a message waits for its confirm goes together when that has come, unless it fills a message before: so
replies go at once on an idle system, and are few on a busy one (as RFC 896 has it for TCP).

The order is the promise: an ack before the confirm would lose the outcome with this process. An unknown publish is
repeated, since the scheduler applies a lease's outcome once. What cannot be acked because its channel died is replied
all the same: the broker delivers that bundle again to somebody who gives it back, and the scheduler has the outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from common import failpoints
from common.background import Report
from common.backoff import reconnect_wait
from common.broker import Publisher
from common.errors import BrokerError, BrokerRefused
from common.telemetry import Telemetry
from common.wire import MAX_PACK_BYTES, MAX_PACK_ITEMS, ErrorKind, Outcome, OutcomeKind, Reply, encode
from worker_service.acks import Acks, until_written
from worker_service.attempts import DeliveredBundle, Leases
from worker_service.events import Completed, Held, Replied, Returned
from worker_service.results import failure
from worker_service.runtimes import Done

MAX_IN_FLIGHT: Final = 8
"""Replies that wait for their confirm at a time. More would only make each of them smaller."""
FULL: Final = 250
"""Outcomes that are sent although another reply waits for its confirm."""
FULL_BYTES: Final = MAX_PACK_BYTES // 4
"""The same in bytes."""
_OUTCOME_BYTES: Final = 250
"""What an outcome takes besides its result and error."""
_PRECONDITION_FAILED: Final = 406
_LONGEST_WAIT: Final = 10.0
_SUSPICIOUS_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


class Replier:
    """Sends outcomes to the scheduler.

    Args:
        worker: this worker's id.
        publisher: on the publishing connection.
        exchange: the reply exchange's name.
        leases: released as their outcomes are confirmed.
        telemetry: where `Completed`, `Returned`, `Held` and `Replied` go.
        acks: settles the bundles of which everything is confirmed.
        report: told of a crash of this code itself.
    """

    def __init__(
        self,
        worker: str,
        publisher: Publisher,
        exchange: str,
        leases: Leases,
        telemetry: Telemetry,
        acks: Acks,
        report: Report | None = None,
    ) -> None:
        self._acks = acks
        self._report = report
        self._worker = worker
        self._publisher = publisher
        self._exchange = exchange
        self._leases = leases
        self._telemetry = telemetry
        self._pending: deque[Done] = deque()
        self._pending_bytes = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._first_tries: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.unanswered = 0
        """How many outcomes are not confirmed."""
        self.on_confirmed: Callable[[], None] | None = None
        """Called after each confirmed reply."""
        self.stuck_reason = ""
        """Why replies are not confirmed now; empty when they are."""

    async def start(self) -> None:
        """Nothing: the first outcome starts the first message."""

    def answer(self, done: Sequence[Done]) -> None:
        """Send these outcomes with those that are there when the event loop comes round."""
        self._count(done)
        self._pending.extend(done)
        self._pending_bytes += sum(_size(outcome) for _, outcome in done)
        self.unanswered += len(done)
        self._idle.clear()
        self._schedule()

    async def drain(self) -> None:
        """Wait until everything is confirmed and acked."""
        await self._idle.wait()
        await self._acks.flush()

    async def stop(self) -> None:
        """Give up what is not confirmed; its bundles are not acked."""
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        if sending:
            await asyncio.wait(sending)
        await self._acks.stop()

    def _schedule(self) -> None:
        if not self._scheduled and self._may_send():
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _may_send(self) -> bool:
        if not self._pending or len(self._sending) >= MAX_IN_FLIGHT:
            return False
        # One that is tried again may take long: it holds nothing up.
        return not self._first_tries or len(self._pending) >= FULL or self._pending_bytes >= FULL_BYTES

    def _flush(self) -> None:
        self._scheduled = False
        while self._may_send():
            task = asyncio.get_running_loop().create_task(self._send(self._pack()), name="reply")
            self._sending.add(task)
            self._first_tries.add(task)
            task.add_done_callback(self._sent)

    def _pack(self) -> list[Done]:
        pack: list[Done] = []
        size = 0
        while self._pending and len(pack) < MAX_PACK_ITEMS:
            size += _size(self._pending[0][1])
            if pack and size > MAX_PACK_BYTES:
                break
            pack.append(self._pending.popleft())
            self._pending_bytes -= _size(pack[-1][1])
        return pack

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._first_tries.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its leases stay in the beats, so nobody else would ever run them: this process has to end.
            _log.error("a reply was given up", exc_info=error)
            if self._report is not None:
                self._report("reply", error)
        if self._pending:
            self._schedule()
        elif not self._sending:
            self._idle.set()

    async def _send(self, pack: list[Done]) -> None:
        try:
            await self._publish_until_confirmed(pack)
        except _TooLarge:
            for attempt, outcome in pack:
                await self._send_alone((attempt, outcome))
            return
        await self._confirmed(pack)

    async def _send_alone(self, done: Done) -> None:
        """One outcome of a message that the broker finds too large; a failure in place of one that still is."""
        try:
            await self._publish_until_confirmed([done])
        except _TooLarge as error:
            attempt, outcome = done
            text = f"the broker refused the reply with this result ({_size(outcome)} bytes) as too large: {error}"
            _log.warning("a result is too large for the broker", extra={"task_id": outcome.id, "reason": str(error)})
            done = (attempt, failure(attempt.assignment, ErrorKind.BAD_RESULT, "BadResult", text))
            await self._publish_until_confirmed([done])
        await self._confirmed([done])

    async def _publish_until_confirmed(self, pack: list[Done]) -> None:
        """Publish the same message until it is confirmed.

        Raises:
            _TooLarge: the broker refused it again and again, and it is large enough to be the reason.
        """
        body = encode(Reply(self._worker, [outcome for _, outcome in pack]))
        failures = refused = 0
        while True:
            try:
                await self._publisher.ready()
                await failpoints.reached("worker.before_reply")
                await self._publish(body)
            except BrokerError as error:
                refused += isinstance(error, BrokerRefused) and error.code == _PRECONDITION_FAILED
                # Others' messages share the channel and its end, so a refusal says something only about a large one.
                if refused >= 3 and len(body) > _SUSPICIOUS_BYTES:
                    raise _TooLarge(str(error)) from None
                self._retrying(error, failures)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not lose an outcome
                _log.exception("publishing a reply failed")
                self._retrying(error, failures)
            else:
                self.stuck_reason = ""
                return
            await asyncio.sleep(min(_LONGEST_WAIT, reconnect_wait(failures)))
            failures += 1

    async def _publish(self, body: bytes) -> None:
        publishing = self._publisher.publish(self._exchange, "reply", body, type=Reply.TYPE)
        if not failpoints.armed():
            await publishing
            return
        task = asyncio.ensure_future(publishing)
        await until_written()
        await failpoints.reached("worker.after_reply")
        await task
        await failpoints.reached("worker.after_confirm")

    def _retrying(self, error: Exception, failures: int) -> None:
        self.stuck_reason = str(error)
        task = asyncio.current_task()
        if task in self._first_tries:
            self._first_tries.discard(task)
            self._schedule()
        if failures == 0:
            _log.warning("a reply is not confirmed, it is sent again", extra={"reason": str(error)})

    async def _confirmed(self, pack: list[Done]) -> None:
        complete: list[DeliveredBundle] = []
        for attempt, outcome in pack:
            if outcome.kind is not OutcomeKind.HELD:
                self._leases.answered(attempt)
            if not attempt.settled:
                attempt.settled = True
                bundle = attempt.bundle
                bundle.open -= 1
                if not bundle.open:
                    complete.append(bundle)
        self.unanswered -= len(pack)
        self._telemetry.emit(Replied(len(pack)))
        await self._acks.add(complete)
        if self.on_confirmed is not None:
            self.on_confirmed()

    def _count(self, done: Sequence[Done]) -> None:
        completed: dict[tuple[str, str, OutcomeKind], list[float]] = {}
        others: dict[tuple[str, OutcomeKind, str], int] = {}
        for attempt, outcome in done:
            kind, queue = outcome.kind, attempt.bundle.queue
            if outcome.reason is None and kind is not OutcomeKind.HELD:
                completed.setdefault((queue, attempt.assignment.task, kind), []).append(outcome.run_seconds)
            else:
                other = (queue, kind, outcome.reason or "")
                others[other] = others.get(other, 0) + 1
        for (queue, task, kind), seconds in completed.items():
            self._telemetry.emit(Completed(queue, task, kind.value, seconds))
        for (queue, kind, reason), count in others.items():
            event = Held(queue, count) if kind is OutcomeKind.HELD else Returned(queue, str(reason), count)
            self._telemetry.emit(event)


class _TooLarge(Exception):
    """The broker does not take a message of this size."""


def _size(outcome: Outcome) -> int:
    """About how many bytes the outcome takes in a message."""
    size = _OUTCOME_BYTES + len(memoryview(outcome.result))
    if outcome.error is not None:
        size += 2 * (len(outcome.error.message) + len(outcome.error.traceback))
    return size


Answer = Callable[[Sequence[Done]], None]
"""`Replier.answer`, as the other parts see it."""

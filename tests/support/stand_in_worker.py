"""A stand-in for a worker: real connections and real messages, and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from common.background import Background
from common.broker import Connection, Consumer, Delivery, Publisher
from common.errors import BrokerError
from common.ids import new_nonce
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import (
    Assignment,
    Beat,
    Bundle,
    Control,
    ControlVerb,
    ErrorInfo,
    ErrorKind,
    Outcome,
    OutcomeKind,
    Reply,
    ReturnReason,
    WorkerAnswer,
    decode,
)

Decide = Callable[[Assignment], Outcome | None]
"""The answer to an assignment, or None to hold it until told otherwise."""
BEAT_SECONDS = 0.1


def succeed(assignment: Assignment) -> Outcome:
    """The sum of the arguments."""
    result = msgspec.Raw(msgspec.json.encode(sum(msgspec.json.decode(assignment.args))))
    return Outcome(
        assignment.id, assignment.lease, assignment.attempt, OutcomeKind.SUCCEEDED, result, run_seconds=0.001
    )


def fail(assignment: Assignment, kind: ErrorKind = ErrorKind.EXCEPTION) -> Outcome:
    """An error with the function's name."""
    error = ErrorInfo(kind, "Boom", assignment.task)
    return Outcome(assignment.id, assignment.lease, assignment.attempt, OutcomeKind.FAILED, error=error)


def give_back(assignment: Assignment, reason: ReturnReason) -> Outcome:
    """Not run."""
    return Outcome(assignment.id, assignment.lease, assignment.attempt, OutcomeKind.RETURNED, reason=reason)


def hold(assignment: Assignment) -> None:
    """No answer yet."""


class StandInWorker:
    """A worker in all that the scheduler sees of it.

    Args:
        url: the broker.
        namespace: the scheduler's.
        decide: answers assignments.
        queues: what it serves.
        slots: how many tasks it says it can run.
        functions: what it says it knows.
        barred: what it says it knows and may not run.
        labels: what it says it has.
        direct: whether it has a queue of its own.
        deaf: it beats, and takes nothing from its queues.

    Attributes:
        seen: every assignment that came in a bundle, in order.
        bundles: how many assignments each bundle held.
        redelivered: leases that came redelivered, and were returned.
        renewed: the queues that it was told to subscribe to anew.
        cancelled: the leases that it was told to stop, in order.
        ordered: what operators told it, in order.
        obeys: it answers what operators tell it.
        holding: what it holds, by lease; all of it counts as running, or as waiting if `started` is false.
        most: the most that it ever held.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        decide: Decide = succeed,
        *,
        queues: Sequence[str] = ("default",),
        slots: int = 4,
        functions: Sequence[str] = ("add",),
        barred: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        direct: bool = True,
        deaf: bool = False,
    ) -> None:
        self.name = f"stand-in-{new_nonce()}"
        self.decide = decide
        self.queues, self.slots, self.functions = list(queues), slots, list(functions)
        self.labels, self.direct = list(labels), direct
        self.barred = None if barred is None else list(barred)
        self.started = True
        self.seen: list[Assignment] = []
        self.bundles: list[int] = []
        self.redelivered: list[str] = []
        self.renewed: list[str] = []
        self.cancelled: list[str] = []
        self.ordered: list[Control] = []
        self.obeys = True
        self.holding: dict[str, Assignment] = {}
        self.most = 0
        self._open: list[tuple[Delivery, set[str]]] = []
        self._topology = Topology(namespace)
        self._probe, self._number, self._frozen = "", 0, False
        telemetry = Telemetry()
        self.connection = Connection(url, name=self.name, heartbeat=10, connect_timeout=10.0, telemetry=telemetry)
        self.publisher = Publisher(self.connection, timeout=10.0, telemetry=telemetry)
        self._answering: set[asyncio.Task[None]] = set()
        self._beating = Background(f"beats of {self.name}", self._beat_for_ever)
        self._consumers = [
            Consumer(
                self.connection,
                self._topology.control_queue(self.name, "stand-in"),
                self._told,
                prefetch=0,
                no_ack=True,
            ),
            *(
                Consumer(self.connection, self._topology.work_queue(queue), self._arrived, prefetch=1000)
                for queue in (() if deaf else self.queues)
            ),
            *(
                Consumer(self.connection, self._topology.direct_queue(self.name), self._arrived, prefetch=1000)
                for _ in range(int(direct and not deaf))
            ),
        ]

    async def __aenter__(self) -> Self:
        await self.connection.start()
        await self.connection.ready(10.0)
        self._beating.start()
        for consumer in self._consumers:
            await consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vanish()

    async def vanish(self) -> None:
        """Be gone without a word: what is unacked goes back to the queue, redelivered."""
        await self.freeze()
        for consumer in self._consumers:
            await consumer.stop()
        for task in self._answering:
            task.cancel()
        await self.connection.stop()

    async def freeze(self, *, deaf: bool = False) -> None:
        """Beat no more, and keep the connection; `deaf` answers no probe either."""
        await self._beating.stop()
        self._frozen = deaf

    async def leave(self) -> None:
        """Take no more, return what is held, say goodbye and go."""
        for consumer in self._consumers:
            await consumer.drain()
        if self._answering:
            await asyncio.wait(self._answering)
        await self.finish(lambda held: give_back(held, ReturnReason.DRAIN))
        await self._beating.stop()
        await self.beat(leaving=True)
        await self.vanish()

    async def beat(self, *, leaving: bool = False) -> None:
        """Say what this worker holds."""
        self._number += 1
        beat = Beat(
            self.name,
            self._number,
            self.queues,
            self.slots,
            list(self.holding) if self.started else [],
            [] if self.started else list(self.holding),
            leaving=leaving,
            probe=self._probe,
            functions=self.functions,
            barred=self.barred,
            labels=self.labels,
            direct=self.direct,
            capacity=self.slots,
        )
        await self.publisher.publish(self._topology.beat_exchange.name, "beat", beat, persistent=False, mandatory=False)

    async def answer(self, token: str, data: bytes = b'{"done":true}') -> None:
        """Answer what an operator said."""
        answer = WorkerAnswer(self.name, token, msgspec.Raw(data))
        exchange = self._topology.beat_exchange.name
        await self.publisher.publish(exchange, "answer", answer, persistent=False, mandatory=False)

    async def reply(self, *outcomes: Outcome) -> None:
        """Send outcomes of whatever lease; then ack the bundles of which all is answered."""
        await self.publisher.publish(
            self._topology.reply_exchange.name, "reply", Reply(self.name, list(outcomes)), persistent=True
        )
        for outcome in outcomes:
            self.holding.pop(outcome.lease, None)
        for delivery, leases in list(self._open):
            leases -= {outcome.lease for outcome in outcomes}
            if not leases:
                self._open.remove((delivery, leases))
                await delivery.ack()

    async def finish(self, decide: Decide = succeed) -> int:
        """Answer all that is held; returns how many."""
        outcomes = [outcome for held in list(self.holding.values()) if (outcome := decide(held)) is not None]
        if outcomes:
            await self.reply(*outcomes)
        return len(outcomes)

    async def _beat_for_ever(self) -> None:
        while True:
            with contextlib.suppress(BrokerError):
                await self.beat()
            await asyncio.sleep(BEAT_SECONDS)

    def _told(self, delivery: Delivery) -> None:
        message = decode(Control, delivery.body)
        if message.verb is ControlVerb.PROBE and not self._frozen:
            self._probe = message.token
            self._soon(self.beat())
        elif message.verb is ControlVerb.RENEW:
            self.renewed.append(message.queue)
        elif message.verb is ControlVerb.CANCEL:
            self.cancelled += message.leases
        elif message.verb is not ControlVerb.PROBE:
            self.ordered.append(message)
            if self.obeys:
                self._soon(self.answer(message.token))

    def _arrived(self, delivery: Delivery) -> None:
        assignments = decode(Bundle, delivery.body).tasks
        self._open.append((delivery, {assignment.lease for assignment in assignments}))
        if delivery.redelivered:
            self.redelivered += [assignment.lease for assignment in assignments]
            self._soon(self.reply(*(give_back(each, ReturnReason.REDELIVERED) for each in assignments)))
            return
        self.seen += assignments
        self.bundles.append(len(assignments))
        self.holding |= {assignment.lease: assignment for assignment in assignments}
        self.most = max(self.most, len(self.holding))
        outcomes = [outcome for each in assignments if (outcome := self.decide(each)) is not None]
        if outcomes:
            self._soon(self.reply(*outcomes))

    def _soon(self, work: object) -> None:
        task = asyncio.ensure_future(self._quietly(work))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    @staticmethod
    async def _quietly(work: object) -> None:
        with contextlib.suppress(BrokerError):
            await work  # type: ignore[misc]

"""Plays the scheduler for one worker: publishes bundles, reads replies, beats and dead letters."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import Raw

from common.broker import BatchConsumer, Connection, Delivery, Publisher, declare
from common.errors import BrokerError
from common.ids import new_leases, new_task_id
from common.options import Policy
from common.questions import Progress, ProgressReport
from common.settings import load
from common.telemetry import Telemetry
from common.topology import Queue, Topology
from common.wire import (
    Assignment,
    Beat,
    Bundle,
    Control,
    ControlVerb,
    Isolation,
    Outcome,
    OutcomeKind,
    Reply,
    WorkerAnswer,
    decode,
)
from worker_service.app import Worker
from worker_service.loader import load as load_handlers
from worker_service.settings import WorkerSettings

MODULE = "tests.support.worker_tasks"


def assignment(
    task: str, *args: Any, isolation: Isolation = Isolation.NONE, policy: Policy | None = None, **kwargs: Any
) -> Assignment:
    """One dispatch of a new task."""
    raw_args, raw_kwargs = Raw(msgspec.json.encode(args)), Raw(msgspec.json.encode(kwargs))
    return Assignment(new_task_id(), task, new_leases(1)[0], 1, raw_args, raw_kwargs, isolation, policy)


def worker_settings(url: str, namespace: str, **overrides: Any) -> WorkerSettings:
    """Settings of a worker under test."""
    values = {"amqp_url": url, "namespace": namespace, "modules": [MODULE], "http": False, "slots": 4, **overrides}
    return load(WorkerSettings, table="worker", environ={}, overrides=values)


class StandInScheduler:
    """The scheduler's side of one namespace.

    Args:
        url: the broker.
        namespace: the namespace.
        queues: the work queues to declare.
    """

    def __init__(self, url: str, namespace: str, queues: Sequence[str] = ("default",)) -> None:
        self.topology = Topology(namespace)
        self._queues = queues
        telemetry = Telemetry()
        self.connection = Connection(url, name="stand-in", heartbeat=10, connect_timeout=5.0, telemetry=telemetry)
        self._publisher = Publisher(self.connection, timeout=10.0, telemetry=telemetry)
        self._consumers = [
            BatchConsumer(self.connection, self.topology.reply, self._replied, prefetch=1000),
            BatchConsumer(self.connection, self.topology.dead, self._died, prefetch=100),
            BatchConsumer(
                self.connection, self.topology.beat_queue("guest", namespace), self._beaten, prefetch=0, no_ack=True
            ),
        ]
        self.replies: list[Reply] = []
        self.outcomes: dict[str, list[Outcome]] = {}
        self.beats: list[Beat] = []
        self.answers: dict[str, list[WorkerAnswer]] = {}
        """Workers' answers to commands, by token."""
        self.reports: list[tuple[float, ProgressReport]] = []
        """Reports of progress, with the time of their arrival (`time.monotonic`)."""
        self.dead: list[Delivery] = []
        self.briefing = True
        """Workers that ask are told the mark."""
        self.mark = 0
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.connection.start()
        await self.connection.ready(10.0)
        topology = self.topology
        work = tuple(topology.work_queue(queue) for queue in self._queues)
        await declare(self.connection, topology.exchanges(), (topology.reply, topology.dead, *work))
        for consumer in self._consumers:
            await consumer.start()
        await self.until(lambda: all(consumer.consuming for consumer in self._consumers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for consumer in self._consumers:
            await consumer.stop()
        await self.connection.stop()

    async def send(
        self, *assignments: Assignment, queue: str = "default", priority: int | None = None, number: int = 0
    ) -> None:
        """Publish one bundle; `number` is that of its dispatches."""
        await self.send_raw(msgspec.json.encode(Bundle(queue, list(assignments), number)), queue=queue)

    async def send_raw(self, body: bytes, *, queue: str = "default", type: str | None = "warren.bundle.v1") -> None:  # noqa: A002
        """Publish anything into a work queue, again until it is confirmed."""
        while True:
            try:
                await self._publisher.ready(20.0)
                await self._publisher.publish(self.topology.work_exchange.name, queue, body, type=type)
                return
            except BrokerError:
                await asyncio.sleep(0.1)

    async def probe(self, token: str) -> None:
        """Ask every worker for a beat."""
        await self._publisher.publish(
            self.topology.control_exchange.name, "all", Control(ControlVerb.PROBE, token), persistent=False
        )

    async def cancel(self, *of: Assignment) -> None:
        """Tell every worker that these are cancelled."""
        message = Control(ControlVerb.CANCEL, leases=[each.lease for each in of])
        await self._publisher.publish(self.topology.control_exchange.name, "all", message, persistent=False)

    async def send_direct(self, worker: str, *assignments: Assignment, queue: str = "default") -> None:
        """Publish one bundle to a worker's own queue."""
        body = msgspec.json.encode(Bundle(queue, list(assignments)))
        await self._publisher.publish("", self.topology.direct_queue(worker).name, body, type=Bundle.TYPE)

    async def command(self, worker: str, verb: ControlVerb, **more: Any) -> WorkerAnswer:
        """Tell a worker to do something; its answer."""
        message = Control(verb, token=new_task_id(), **more)
        await self.control(f"worker.{worker}", message)
        await self.until(lambda: message.token in self.answers, what=f"the answer to {verb.value}")
        return self.answers[message.token][0]

    async def control(self, key: str, message: Control | bytes) -> None:
        """Publish anything to the control exchange."""
        exchange = self.topology.control_exchange.name
        await self._publisher.publish(exchange, key, message, type=Control.TYPE, persistent=False)

    def progress(self, of: Assignment) -> list[tuple[float, Progress]]:
        """What was reported about it, with the time of arrival."""
        return [(at, report.progress[of.lease]) for at, report in self.reports if of.lease in report.progress]

    def running(self, of: Assignment) -> bool:
        """Whether the newest beat says that it runs."""
        return bool(self.beats) and of.lease in self.beats[-1].running

    async def outcome(self, of: Assignment, timeout: float = 20.0) -> Outcome:
        """The first final outcome of an assignment."""
        await self.until(lambda: bool(self.final(of)), timeout, f"an outcome of {of.task}")
        return self.final(of)[0]

    def final(self, of: Assignment) -> list[Outcome]:
        """Its outcomes so far but `held`."""
        return [each for each in self.outcomes.get(of.lease, []) if each.kind is not OutcomeKind.HELD]

    async def until(self, condition: Callable[[], bool], timeout: float = 20.0, what: str = "a condition") -> None:
        """Wait until `condition()` holds; it is looked at whenever a message comes, and 50 times a second."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
            self._news.clear()
            try:
                async with asyncio.timeout(0.02):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _replied(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            reply = decode(Reply, delivery.body)
            self.replies.append(reply)
            for outcome in reply.outcomes:
                self.outcomes.setdefault(outcome.lease, []).append(outcome)
        self._news.set()

    async def _died(self, deliveries: list[Delivery]) -> None:
        self.dead += deliveries
        self._news.set()

    async def _beaten(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.type == ProgressReport.TYPE:
                self.reports.append((time.monotonic(), decode(ProgressReport, delivery.body)))
            elif delivery.type == WorkerAnswer.TYPE:
                answer = decode(WorkerAnswer, delivery.body)
                self.answers.setdefault(answer.token, []).append(answer)
            else:
                self.beats.append(decode(Beat, delivery.body))
                if self.beats[-1].asking and self.briefing:
                    mark = Control(ControlVerb.MARK, self.beats[-1].asking, number=self.mark)
                    await self.control(f"worker.{self.beats[-1].worker}", mark)
        self._news.set()


class RunningWorker:
    """A worker in this process and this event loop.

    Args:
        settings: of the worker.
        **more: arguments of `Worker`.
    """

    def __init__(self, settings: WorkerSettings, **more: Any) -> None:
        self.worker = Worker(settings, load_handlers(settings.modules), **more)
        self.exit_code: int | None = None
        self._task: asyncio.Task[int] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.worker.run())
        await self.until_consuming()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.service.drain()
        if kind is not None:
            self.worker.service.drain()  # a failed test waits for nothing
        await self.ended()

    async def until_consuming(self, timeout: float = 30.0) -> None:
        """Wait until the worker consumes all its queues and listens to control messages."""
        assert self._task is not None
        deadline = time.monotonic() + timeout
        while not (self.worker.control.consuming and all(each.consuming for each in self.worker.consumers)):
            if self._task.done():
                self._task.result()
            assert time.monotonic() < deadline, "the worker does not consume"
            await asyncio.sleep(0.01)

    async def ended(self) -> int:
        """Wait for the worker's end; its exit code."""
        assert self._task is not None
        self.exit_code = await self._task
        return self.exit_code


def queue_of(scheduler: StandInScheduler, name: str = "default") -> Queue:
    """The work queue of this name."""
    return scheduler.topology.work_queue(name)

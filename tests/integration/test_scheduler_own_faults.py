"""A fault in the scheduler's own code, met again and again by one message: the others are handled all the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from common.broker import BatchConsumer, Connection, Delivery, Publisher, declare, ready_messages
from common.errors import StoreUnavailable
from common.ids import new_task_id
from common.questions import AskKind
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Reply
from deploy.local import Broker
from scheduler_service import operations
from scheduler_service.intake import Intake
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold, succeed
from tests.support.waiting import eventually


class Fault(Exception):
    """Nobody foresaw it."""


def breaks(function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """`function`, with a fault for some of its arguments."""

    def broken(*args: Any) -> Any:
        if when(*args):
            raise Fault
        return function(*args)

    return broken


@pytest.fixture
async def worker(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[StandInWorker]:
    """At work."""
    async with StandInWorker(broker.url, namespace) as working:
        yield working


async def test_a_submission_that_meets_a_fault_waits_and_the_others_are_taken(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursed(_: Any, new: Any, *__: Any) -> bool:
        return any(task.message.task == "cursed" for task in new)

    with monkeypatch.context() as patch:
        for name in ("accept", "accept_carefully"):
            patch.setattr(operations, name, breaks(getattr(operations, name), cursed))
        waiting = [id_ for _ in range(3) for id_ in await producer.submit({}, {"task": "cursed"})]
        await eventually(lambda: "Fault" in str(scheduler.scheduler._consumer_check()))
        for _ in range(50):
            began = time.monotonic()
            await producer.result(*await producer.submit({}))
            assert time.monotonic() - began < 2.0
        assert scheduler.ready, "others get through"
        assert not producer.told.keys() & set(waiting)
    results = await producer.results(waiting)
    assert {result.state for result in results} == {"succeeded"}
    assert not scheduler.parked


async def test_a_reply_that_meets_a_fault_waits_and_the_others_count(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursed(_: Any, reports: Any, *__: Any) -> bool:
        return any(bytes(getattr(report.event, "result", b"")) == b"666" for report in reports)

    worker.decide = hold
    (id_,) = await producer.submit({})
    (held,) = await eventually(lambda: list(worker.holding.values()))
    outcome = {"id": held.id, "lease": held.lease, "attempt": 1, "kind": "succeeded", "result": 666}
    worker.decide = succeed
    with monkeypatch.context() as patch:
        patch.setattr(operations, "apply", breaks(operations.apply, cursed))
        body = json.dumps({"worker": worker.name, "outcomes": [outcome]}).encode()
        await producer.send(body, queue="reply", type=Reply.TYPE)
        for _ in range(20):
            await producer.result(*await producer.submit({}))
        assert id_ not in producer.told
    assert bytes((await producer.result(id_)).result) == b"666"


async def test_what_meets_a_fault_goes_back_when_the_scheduler_ends(
    scheduler: RunningScheduler, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "accept", breaks(operations.accept, lambda *_: True))
    await producer.submit({})
    await eventually(lambda: "Fault" in str(scheduler.scheduler._consumer_check()))
    began = time.monotonic()
    await scheduler.__aexit__()
    assert time.monotonic() - began < 5.0
    assert await ready_messages(producer.connection, producer.topology.submit) == 1


@pytest.mark.parametrize("error", [MemoryError, Fault])
async def test_a_fault_that_passes_loses_nothing(
    scheduler: RunningScheduler,
    producer: Producer,
    worker: StandInWorker,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
) -> None:
    """Memory that runs out, or a state of ours that mends itself: neither is the fault of what came meanwhile."""

    def fails(*_: Any) -> bool:
        raise error

    with monkeypatch.context() as patch:
        for name in ("accept", "accept_carefully", "apply"):
            patch.setattr(operations, name, breaks(getattr(operations, name), fails))
        ids = [id_ for _ in range(3) for id_ in await producer.submit({}, {})]
        await asyncio.sleep(1.5)
        assert not scheduler.ready
    results = await producer.results(ids)
    assert {result.state for result in results} == {"succeeded"}
    assert not scheduler.parked


async def test_what_cannot_be_stored_now_is_not_said_to_be_unknown(
    scheduler: RunningScheduler, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the queue, and will run."""

    def full(*_: Any) -> bool:
        raise StoreUnavailable("the disk is full")

    nobodys = new_task_id()
    with monkeypatch.context() as patch:
        patch.setattr(operations, "accept", breaks(operations.accept, full))
        (id_,) = await producer.submit({})
        await eventually(lambda: scheduler.scheduler._consumer_check() is not None)
        for kind in AskKind:
            answer = await producer.ask(kind, [id_, nobodys])
            assert not answer.unknown, kind
    await eventually(lambda: scheduler.submitted == 1)
    assert (await producer.ask(AskKind.STATUS, [id_, nobodys])).unknown == [nobodys]


async def test_a_fault_after_the_commit_leaves_nothing_unsent(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursed(*args: Any) -> bool:
        return bool(args[1].lane.task == "cursed")

    monkeypatch.setattr(Intake, "_follow", breaks(Intake._follow, cursed))
    ids = await producer.submit({"task": "cursed"}, {}, {})
    await asyncio.sleep(1.0)
    later = await producer.submit({})
    assert {result.state for result in await producer.results([*ids, *later])} == {"succeeded"}


@pytest.mark.parametrize("no_ack", [False, True])
async def test_a_fault_with_one_message_is_no_other_ones(broker: Broker, namespace: str, no_ack: bool) -> None:
    """Also with beats: a batch of them that is dropped as a whole would make living workers dead."""
    handled: list[bytes] = []
    gate = asyncio.Event()
    cursed = {b"2"}

    async def handle(deliveries: list[Delivery]) -> None:
        await gate.wait()
        if any(delivery.body in cursed for delivery in deliveries):
            raise Fault
        handled.extend(delivery.body for delivery in deliveries)

    topology = Topology(namespace)
    queue = topology.client_queue("guest", new_task_id()) if no_ack else topology.work_queue("default")
    connection = Connection(broker.url, name="test", heartbeat=10, connect_timeout=10.0, telemetry=Telemetry())
    publisher = Publisher(connection, timeout=10.0, telemetry=Telemetry())
    consumer = BatchConsumer(connection, queue, handle, prefetch=0 if no_ack else 10, no_ack=no_ack)
    again = BatchConsumer(connection, queue, handle, prefetch=10)
    await connection.start()
    try:
        await connection.ready(10.0)
        await declare(connection, topology.exchanges(), () if no_ack else (queue,))
        await consumer.start()
        await eventually(lambda: consumer.consuming)
        for number in range(5):
            await publisher.publish("", queue.name, b"%d" % number)
        gate.set()
        await eventually(lambda: len(handled) == 4)
        for number in range(5, 50):
            await publisher.publish("", queue.name, b"%d" % number)
        await eventually(lambda: handled[-1] == b"49")
        assert not consumer.stuck_reason
        assert sorted(handled) == sorted(b"%d" % number for number in range(50) if number != 2)
        await consumer.drain()
        await consumer.stop()
        if not no_ack:
            cursed.clear()
            handled.clear()
            await again.start()
            await eventually(lambda: bool(handled))
            await publisher.publish("", queue.name, b"last")
            await eventually(lambda: handled[-1] == b"last")
            assert handled == [b"2", b"last"], "it was not acked along with the others"
    finally:
        await again.stop()
        await consumer.stop()
        await connection.stop()

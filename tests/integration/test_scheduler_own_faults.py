"""A fault in the scheduler's own code, met again and again by one message: the others are handled all the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from common.broker import BatchConsumer, Connection, Delivery, Publisher
from common.errors import ConnectionLost, StoreUnavailable
from common.ids import new_task_id
from common.questions import AskKind
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import ErrorKind, Reply
from deploy.local import Broker
from scheduler_service import operations, reception
from scheduler_service.intake import Intake
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold, succeed
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.broker.consumer.PATIENCE", 0.5)


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


async def test_one_task_that_cannot_be_stored_is_refused_and_its_neighbours_run(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursed(_: Any, new: Any, *__: Any) -> bool:
        return any(task.message.task == "cursed" and task.refusal is None for task in new)

    monkeypatch.setattr(operations, "accept", breaks(operations.accept, cursed))
    monkeypatch.setattr(operations, "accept_carefully", breaks(operations.accept_carefully, cursed))
    ids = await producer.submit({}, {}, {"task": "cursed"}, {})
    await asyncio.sleep(1.0)
    assert not scheduler.parked, "as long as nothing else gets through, it may be the scheduler itself"
    later = await producer.submit({})
    states = [result.state for result in await producer.results([*ids, *later])]
    assert states == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    error = producer.told[ids[2]].error
    assert error is not None
    assert (error.kind, "a fault of the scheduler" in error.message) == (ErrorKind.REFUSED, True)
    assert scheduler.parked == {("submit", "internal"): 1}
    assert scheduler.ready


async def test_a_submission_that_cannot_even_be_read_is_parked(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursed(deliveries: list[Delivery], *_: Any) -> bool:
        return any(b"cursed" in delivery.body for delivery in deliveries)

    monkeypatch.setattr("scheduler_service.intake.read", breaks(reception.read, cursed))
    lost = await producer.submit({"task": "cursed"})
    await asyncio.sleep(1.0)
    (id_,) = await producer.submit({})
    assert (await producer.results([id_]))[0].state == "succeeded"
    (row,) = await scheduler.rows()
    assert (row.origin, row.reason, lost[0].encode() in row.payload) == ("submit", "internal", True)
    assert "Fault" in row.detail


async def test_one_outcome_that_cannot_be_applied_fails_and_its_neighbours_count(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cursed(_: Any, reports: Any, *__: Any) -> bool:
        return any(bytes(getattr(report.event, "result", b"")) == b"666" for report in reports)

    monkeypatch.setattr(operations, "apply", breaks(operations.apply, cursed))
    worker.decide = hold
    ids = await producer.submit({}, {}, {})
    await eventually(lambda: len(worker.holding) == 3)
    held = list(worker.holding.values())
    outcomes = [
        {"id": each.id, "lease": each.lease, "attempt": 1, "kind": "succeeded", "result": result}
        for each, result in zip(held, [1, 666, 1], strict=True)
    ]
    body = json.dumps({"worker": worker.name, "outcomes": outcomes}).encode()
    await producer.send(body, queue="reply", type=Reply.TYPE)
    await asyncio.sleep(1.0)
    worker.decide = succeed
    await producer.result(*await producer.submit({}))
    await producer.results(ids)
    assert [producer.told[each.id].state for each in held] == ["succeeded", "failed", "succeeded"]
    error = producer.told[held[1].id].error
    assert error is not None
    assert error.kind is ErrorKind.BAD_RESULT
    assert scheduler.ready


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
    given_up: list[bytes] = []
    gate = asyncio.Event()

    async def handle(deliveries: list[Delivery]) -> None:
        await gate.wait()
        if any(delivery.body == b"2" for delivery in deliveries):
            raise Fault
        handled.extend(delivery.body for delivery in deliveries)

    async def give_up(delivery: Delivery, error: Exception) -> None:
        assert isinstance(error, Fault)
        if not given_up:
            given_up.append(b"first")
            raise ConnectionLost("not yet")
        given_up.append(delivery.body)

    queue = Topology(namespace).client_queue("guest", new_task_id())
    connection = Connection(broker.url, name="test", heartbeat=10, connect_timeout=10.0, telemetry=Telemetry())
    consumer = BatchConsumer(connection, queue, handle, prefetch=0 if no_ack else 10, no_ack=no_ack, give_up=give_up)
    await connection.start()
    try:
        await connection.ready(10.0)
        await consumer.start()
        await eventually(lambda: consumer.consuming)
        publisher = Publisher(connection, timeout=10.0, telemetry=Telemetry())
        for number in range(5):
            await publisher.publish("", queue.name, b"%d" % number)
        gate.set()
        await eventually(lambda: len(set(handled)) == 4)
        assert no_ack or consumer.stuck_reason == "Fault"
        assert not no_ack or not consumer.stuck_reason
        await asyncio.sleep(0.7)
        assert not given_up, "nothing else came through since"
        await publisher.publish("", queue.name, b"6")
        await eventually(lambda: b"6" in handled and (no_ack or len(given_up) == 2))
        assert sorted(handled) == [b"0", b"1", b"3", b"4", b"6"]
        assert given_up == ([] if no_ack else [b"first", b"2"])
        await publisher.publish("", queue.name, b"5")
        await eventually(lambda: handled[-1] == b"5")
        assert not consumer.stuck_reason
    finally:
        with suppress(ConnectionLost):
            await consumer.stop()
        await connection.stop()

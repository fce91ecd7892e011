"""Outcomes into confirmed messages, and only then acks; with a publisher that does what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec import Raw

from common.errors import BrokerError, BrokerRefused, ConnectionLost, PublishRefused, PublishUnknown
from common.telemetry import Telemetry
from common.wire import MAX_PACK_BYTES, MAX_PACK_ITEMS, Assignment, ErrorKind, Outcome, OutcomeKind, Reply, decode
from worker_service import replier as module
from worker_service.acks import Acks
from worker_service.attempts import Attempt, DeliveredBundle, Leases
from worker_service.replier import FULL, FULL_BYTES, MAX_IN_FLIGHT, Replier
from worker_service.results import held


class Journal:
    """A publisher and deliveries; notes what happens in which order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.replies: list[Reply] = []
        self.faults: list[BrokerError] = []
        self.refuse_above = 1 << 62
        self.confirm = asyncio.Event()
        self.confirm.set()
        self.in_flight = self.most_in_flight = 0

    async def ready(self, timeout: float | None = None) -> None: ...

    async def publish(self, exchange: str, routing_key: str, body: bytes, *, type: str) -> None:  # noqa: A002
        assert (exchange, routing_key, type) == ("warren.reply", "reply", "warren.reply.v1")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.confirm.wait()
        finally:
            self.in_flight -= 1
        if self.faults:
            raise self.faults.pop(0)
        if len(body) > self.refuse_above:
            raise BrokerRefused(406, "message size is too large")
        self.replies.append(decode(Reply, body))
        self.events.append("confirmed")

    def outcomes(self) -> list[Outcome]:
        return [outcome for reply in self.replies for outcome in reply.outcomes]


class Delivered:
    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name

    async def ack(self) -> bool:
        self._journal.events.append(f"ack {self._name}")
        return True


class Bench:
    def __init__(self) -> None:
        self.journal = Journal()
        self.leases = Leases()
        publisher: Any = self.journal
        self.replier = Replier("w", publisher, "warren.reply", self.leases, Telemetry(), Acks(1))
        self._number = 0

    def bundle(self, tasks: int, name: str = "b") -> list[Attempt]:
        bundle = DeliveredBundle(Delivered(self.journal, name), "default")
        bundle.open = tasks
        attempts = []
        for _ in range(tasks):
            self._number += 1
            attempt = Attempt(Assignment(f"id{self._number}", "add", f"lease{self._number}", 1), bundle, 0.0)
            self.leases.hold(attempt)
            attempts.append(attempt)
        return attempts

    def answer(self, *attempts: Attempt, result: bytes = b"1") -> None:
        self.replier.answer([(attempt, outcome(attempt, result)) for attempt in attempts])


def outcome(attempt: Attempt, result: bytes = b"1") -> Outcome:
    work = attempt.assignment
    return Outcome(work.id, work.lease, work.attempt, OutcomeKind.SUCCEEDED, Raw(result))


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "reconnect_wait", lambda failures: 0.001)
    made = Bench()
    yield made
    await made.replier.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


async def test_the_ack_comes_after_the_confirm(bench: Bench) -> None:
    bench.journal.confirm.clear()
    bench.answer(*bench.bundle(2))
    await until(lambda: bench.journal.in_flight)
    assert bench.journal.events == []
    assert len(bench.leases) == 2, "listed until confirmed"
    bench.journal.confirm.set()
    await bench.replier.drain()
    assert bench.journal.events == ["confirmed", "ack b"]
    assert len(bench.leases) == 0


async def test_what_is_there_by_now_shares_a_message(bench: Bench) -> None:
    for attempt in bench.bundle(30):
        bench.answer(attempt)
    await bench.replier.drain()
    assert [len(reply.outcomes) for reply in bench.journal.replies] == [30]


async def test_an_outcome_does_not_wait_for_its_bundle(bench: Bench) -> None:
    first, second = bench.bundle(2)
    bench.answer(first)
    await bench.replier.drain()
    assert bench.journal.events == ["confirmed"]
    bench.answer(second)
    await bench.replier.drain()
    assert bench.journal.events == ["confirmed", "confirmed", "ack b"]


async def test_messages_are_bounded_in_items_and_bytes(bench: Bench) -> None:
    bench.answer(*bench.bundle(MAX_PACK_ITEMS + 1))
    await bench.replier.drain()
    assert [len(reply.outcomes) for reply in bench.journal.replies] == [MAX_PACK_ITEMS, 1]
    bench.journal.replies.clear()
    bench.answer(*bench.bundle(3, "c"), result=b'"' + b"x" * (MAX_PACK_BYTES // 2) + b'"')
    await bench.replier.drain()
    assert [len(reply.outcomes) for reply in bench.journal.replies] == [1, 1, 1]


async def test_only_so_many_messages_are_in_flight(bench: Bench) -> None:
    bench.journal.confirm.clear()
    for number in range(3 * MAX_IN_FLIGHT):
        bench.answer(*bench.bundle(FULL, f"b{number}"))
        await asyncio.sleep(0.001)
    assert bench.journal.in_flight == MAX_IN_FLIGHT
    assert bench.replier.unanswered == 3 * MAX_IN_FLIGHT * FULL
    bench.journal.confirm.set()
    await bench.replier.drain()
    assert bench.journal.most_in_flight == MAX_IN_FLIGHT
    assert len(bench.journal.outcomes()) == 3 * MAX_IN_FLIGHT * FULL
    assert bench.replier.unanswered == 0


async def test_what_comes_before_the_confirm_goes_together_after_it(bench: Bench) -> None:
    bench.journal.confirm.clear()
    for number in range(FULL - 1):
        bench.answer(*bench.bundle(1, f"b{number}"))
        await asyncio.sleep(0)
    await until(lambda: bench.journal.in_flight)
    assert bench.journal.in_flight == 1
    bench.journal.confirm.set()
    await bench.replier.drain()
    first, second = bench.journal.replies
    assert len(first.outcomes) + len(second.outcomes) == FULL - 1
    assert len(second.outcomes) > len(first.outcomes)


async def test_large_results_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.journal.confirm.clear()
    for number in range(3):
        bench.answer(*bench.bundle(1, f"b{number}"), result=b'"' + b"x" * FULL_BYTES + b'"')
        await asyncio.sleep(0.001)
    assert bench.journal.in_flight == 3
    bench.journal.confirm.set()


async def test_a_message_that_is_tried_again_holds_nothing_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "reconnect_wait", lambda failures: 60.0)
    bench.journal.faults = [BrokerRefused(406, "message size is too large")]
    bench.answer(*bench.bundle(1))
    await until(lambda: bench.replier.stuck_reason)
    bench.answer(*bench.bundle(1, "c"))
    await until(lambda: "ack c" in bench.journal.events)
    assert bench.replier.unanswered == 1


async def test_a_publish_without_a_confirm_is_repeated_until_there_is_one(bench: Bench) -> None:
    faults = [PublishUnknown("x"), ConnectionLost("x"), PublishRefused("x", unroutable=True), BrokerRefused(404, "x")]
    bench.journal.faults = faults * 5
    bench.answer(*bench.bundle(1))
    await bench.replier.drain()
    assert bench.journal.events == ["confirmed", "ack b"]
    assert bench.replier.stuck_reason == ""


async def test_a_refusal_caused_by_a_sibling_changes_no_outcome(bench: Bench) -> None:
    bench.journal.faults = [BrokerRefused(406, "somebody else's message was too large")] * 10
    bench.answer(*bench.bundle(1))
    await bench.replier.drain()
    assert [outcome.kind for outcome in bench.journal.outcomes()] == [OutcomeKind.SUCCEEDED]


async def test_a_result_that_the_broker_does_not_take_becomes_a_failure(bench: Bench) -> None:
    bench.journal.refuse_above = 200_000
    small, large = bench.bundle(2)
    bench.replier.answer([(small, outcome(small)), (large, outcome(large, b'"' + b"x" * 300_000 + b'"'))])
    await bench.replier.drain()
    by_lease = {each.lease: each for each in bench.journal.outcomes()}
    assert by_lease[small.assignment.lease].kind is OutcomeKind.SUCCEEDED
    error = by_lease[large.assignment.lease].error
    assert error is not None
    assert error.kind is ErrorKind.BAD_RESULT
    assert bench.journal.events[-1] == "ack b"


async def test_held_settles_the_bundle_once_and_the_lease_stays(bench: Bench) -> None:
    long, short = bench.bundle(2)
    bench.replier.answer([(long, held(long.assignment))])
    await bench.replier.drain()
    assert "ack b" not in bench.journal.events
    bench.answer(short)
    await bench.replier.drain()
    assert bench.journal.events[-1] == "ack b"
    assert list(bench.leases) == [long]
    bench.answer(long)
    await bench.replier.drain()
    assert bench.journal.events.count("ack b") == 1
    assert len(bench.leases) == 0


async def test_a_redelivered_copy_does_not_end_the_lease_that_runs(bench: Bench) -> None:
    (runs,) = bench.bundle(1)
    copy = Attempt(runs.assignment, DeliveredBundle(Delivered(bench.journal, "copy"), "default"), 0.0)
    copy.bundle.open = 1
    bench.answer(copy)
    await bench.replier.drain()
    assert bench.journal.events == ["confirmed", "ack copy"]
    assert list(bench.leases) == [runs]


def test_answered_leases_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_service.attempts.REMEMBERED", 3)
    leases, bundle = Leases(), DeliveredBundle(Delivered(None, ""), "default")  # type: ignore[arg-type]
    for number in range(5):
        leases.answered(Attempt(Assignment("id", "add", f"lease{number}", 1), bundle, 0.0))
    assert [leases.knows(f"lease{number}") for number in range(5)] == [False, False, True, True, True]


async def test_acks_wait_for_others_but_not_for_long_and_not_for_many() -> None:
    journal = Journal()
    acks = Acks(3)
    bundles = [DeliveredBundle(Delivered(journal, str(number)), "default") for number in range(5)]
    await acks.add(bundles[:1])
    assert journal.events == []
    await until(lambda: journal.events == ["ack 0"])
    await acks.add(bundles[1:3])
    assert journal.events == ["ack 0"]
    await acks.add(bundles[3:4])
    assert journal.events == ["ack 0", "ack 1", "ack 2", "ack 3"]
    await acks.add(bundles[4:])
    await acks.flush()
    assert journal.events[-1] == "ack 4"
    await acks.stop()

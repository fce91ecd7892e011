"""Garbage on every queue that the scheduler reads: refused with its reason, and the next good task runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pika
import pytest

from common.errors import BrokerError
from common.ids import new_task_id
from common.wire import Beat, Bundle, ErrorKind, Reply
from deploy.local import Broker
from scheduler_service import events
from tests.support.producer import Producer
from tests.support.running_scheduler import ParkedRow, RunningScheduler
from tests.support.stand_in_worker import StandInWorker, hold
from tests.support.waiting import eventually

KNOWN = new_task_id()
DEEP = b"[" * 100_000 + b"]" * 100_000


def task(args: bytes = b"[1]", **fields: Any) -> bytes:
    """One task as JSON, with arguments that may be garbage."""
    named = json.dumps({"id": new_task_id(), "task": "add"} | fields).encode()
    return named[:-1] + b',"args":' + args + b"}"


def submission(*tasks: bytes) -> bytes:
    return b'{"tasks":[' + b",".join(tasks) + b"]}"


NOT_A_MESSAGE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"hello, world",
    "binary": bytes(range(256)),
    "a NUL": b"\x00",
    "invalid UTF-8": b'{"tasks":"\xff\xfe","outcomes":"\xff"}',
    "UTF-16": '{"tasks":[]}'.encode("utf-16"),
    "cut short": b'{"tasks":[{"id":"',
    "another form": b'{"tasks":5,"outcomes":{},"ids":null,"worker":[]}',
    "an array": b"[]",
    "a number beyond a float": b"1e999",
    "NaN": b"NaN",
    "nested 100,000 deep": DEEP,
    "opened 100,000 times": b"[" * 100_000,
    "nested inside": b'{"tasks":[{"args":' + DEEP + b'}],"outcomes":[{"result":' + DEEP + b'}],"ids":' + DEEP + b"}",
    "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "a duplicated key": b'{"tasks":[],"tasks":5}',
}


@pytest.fixture
async def worker(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[StandInWorker]:
    """At work, beside whatever else comes."""
    async with StandInWorker(broker.url, namespace) as working:
        await scheduler.hears(working)
        yield working


def named(sent: Iterable[str], rows: Sequence[ParkedRow]) -> dict[str, tuple[str, str]]:
    """Origin and reason of what was parked, by the name of what was sent: both are in the same order."""
    assert all(row.detail for row in rows)
    return dict(zip(sent, ((row.origin, row.reason) for row in rows), strict=True))


async def works(producer: Producer) -> None:
    """The next good task runs."""
    (id_,) = await producer.submit({"args": [20, 22]})
    assert bytes((await producer.result(id_)).result) == b"42"


BAD_SUBMISSIONS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    **{name: ("undecodable", body, {}) for name, body in NOT_A_MESSAGE.items()},
    "NaN in arguments": ("undecodable", submission(task(b"[NaN]")), {}),
    "no type": ("unknown_type", submission(task()), {"type": ""}),
    "an unknown version": ("unknown_type", submission(task()), {"type": "warren.submission.v2"}),
    "a reply": ("unknown_type", submission(task()), {"type": Reply.TYPE}),
    "no user": ("no_user", submission(task()), {"user_id": None}),
    "a foreign reply_to": ("foreign_reply_to", submission(task()), {"reply_to": "amq.gen-somebody"}),
    "the reply queue as reply_to": ("foreign_reply_to", submission(task()), {"reply_to": "NAMESPACE.reply"}),
    "dead-lettered": ("dead_lettered", submission(task()), {"headers": {"x-death": "[{count: 1}]"}}),
    "too large": ("too_large", b'{"tasks":[],"padding":"' + b"x" * 11_000_000 + b'"}', {}),
    "an id that is no id": ("undecodable", submission(task(id="../../etc/passwd")), {}),
    "a function that is no name": ("undecodable", submission(task(task="os.system('true')")), {}),
    "a queue that is no name": ("undecodable", submission(task(queue="#")), {}),
    "a priority beyond all": ("undecodable", submission(task(priority=10**30)), {}),
    "a control character in a key": ("undecodable", submission(task(options={"key": "anna\x00gpu"})), {}),
    "a missing id": ("undecodable", submission(b'{"task":"add"}'), {}),
    "null": ("undecodable", submission(b"null"), {}),
}


async def test_bad_submissions_are_parked_each_with_its_reason(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    for _, body, properties in BAD_SUBMISSIONS.values():
        if properties.get("reply_to") == "NAMESPACE.reply":
            properties = {"reply_to": f"{producer.topology.namespace}.reply"}
        await producer.send(body, **properties)
    await works(producer)
    rows = await scheduler.rows()
    expected = {name: ("submit", reason) for name, (reason, _, _) in BAD_SUBMISSIONS.items()}
    assert named(BAD_SUBMISSIONS, rows) == expected
    assert all(row.payload in body for row, (_, body, _) in zip(rows, BAD_SUBMISSIONS.values(), strict=True))
    assert max(len(row.payload) for row in rows if row.reason != "undecodable") == 64 * 1024, "of what is too large"
    assert scheduler.parked == Counter(expected.values())
    assert scheduler.ready


BAD_TASKS: dict[str, tuple[str, bytes]] = {
    "too large": ("too_large", b'["' + b"x" * 300_000 + b'"]'),
    "far too large": ("too_large", b'["' + b"x" * 4_000_000 + b'"]'),
    "nested 33 deep": ("too_deep", b"[" * 33 + b"1," * 20 + b"1" + b"]" * 33),
    "invalid UTF-8": ("undecodable", b'["\xff\xfe"]'),
    "no array": ("undecodable", b'"[1]"'),
    "cursed": ("unstorable", b'["cursed"]'),
}


@pytest.mark.parametrize("name", BAD_TASKS)
async def test_a_bad_task_fails_with_its_reason_and_its_neighbours_run(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, name: str
) -> None:
    reason, args = BAD_TASKS[name]
    await scheduler.executed(
        "CREATE TRIGGER curse BEFORE INSERT ON tasks WHEN NEW.args LIKE '%cursed%' "
        "BEGIN SELECT RAISE(ABORT, 'the database does not like it'); END"
    )
    ended: list[events.Finished] = []
    scheduler.scheduler.telemetry.on(events.Ended, lambda event: ended.extend(event.finished))
    ids = [new_task_id() for _ in range(5)]
    bodies = [task(args if number == 2 else b"[%d]" % number, id=id_) for number, id_ in enumerate(ids)]
    await producer.send(submission(*bodies))
    states = [result.state for result in await producer.results(ids)]
    assert states == ["succeeded", "succeeded", "failed", "succeeded", "succeeded"]
    error = producer.told[ids[2]].error
    assert error is not None
    assert error.kind is ErrorKind.REFUSED
    (row,) = await scheduler.rows()
    assert (row.origin, row.reason, row.owner) == ("submit", reason, producer.connection.user)
    assert args in row.payload
    assert scheduler.parked == {("submit", reason): 1}
    assert [(each.task, each.status, len(each.total_seconds)) for each in ended] == [("add", "failed", 1)]
    await works(producer)


async def test_numbers_beyond_a_float_are_the_functions_business(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = hold
    id_ = new_task_id()
    await producer.send(submission(task(b"[1e999, 123456789012345678901234567890]", id=id_)))
    (assignment,) = await eventually(lambda: list(worker.holding.values()))
    assert bytes(assignment.args) == b"[1e999, 123456789012345678901234567890]"


async def test_a_forged_user_is_refused_by_the_broker(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    with pytest.raises(BrokerError):
        await producer.send(submission(task()), user_id="somebody-else")
    await works(producer)
    assert await scheduler.rows() == []


async def test_no_more_queues_come_into_being_than_are_allowed(
    broker: Broker, namespace: str, tmp_path: Any, quick_rescue: None
) -> None:
    async with (
        RunningScheduler(broker.url, namespace, tmp_path, max_queues=2) as scheduler,
        Producer(broker.url, namespace) as producer,
        StandInWorker(broker.url, namespace),
    ):
        ids = await producer.submit(*({"queue": queue} for queue in ("default", "b", "c", "default")))
        refused = await producer.result(ids[2])
        assert (refused.state, refused.error and refused.error.kind) == ("failed", ErrorKind.REFUSED)
        await producer.results([ids[0], ids[3]])
        assert scheduler.parked == {("submit", "too_many_queues"): 1}
        assert (await producer.status(ids[1]))["state"] == "queued"


def nested(depth: int) -> dict[str, Any]:
    """A table in a table in a table."""
    table: dict[str, Any] = {}
    for _ in range(depth):
        table = {"t": table}
    return table


UNREADABLE: dict[str, dict[str, Any]] = {
    "a type that is no UTF-8": {"type": b"\xff\xfe"},
    "a correlation id that is no UTF-8": {"type": "x", "correlation_id": b"\xff"},
    "a header's name that is no UTF-8": {"type": "x", "headers": {b"\xff": "1"}},
    "a header's text that is no UTF-8": {"type": "x", "headers": {"text": b"\xff"}},
    "headers nested deep": {"type": "x", "headers": nested(400)},
    "a time beyond all calendars": {"type": "x", "timestamp": 2**62},
    "a time before all calendars": {"type": "x", "headers": {"at": -(2**62)}},
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_properties_that_cannot_be_read_do_not_cost_the_connection(
    broker: Broker, scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, name: str
) -> None:
    """AMQP's properties may hold any bytes: a reader that dies of them dies again when the message comes again."""
    connected = scheduler.scheduler._connections[0]._raw
    queues = ("submit", "reply", "request")
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        for queue in queues:
            properties = pika.BasicProperties(user_id=producer.connection.user, **UNREADABLE[name])
            channel.basic_publish(f"{producer.topology.namespace}.{queue}", queue, b"{}", properties)
    await works(producer)
    await eventually(lambda: scheduler.parked.total() == len(queues))
    assert {row.origin for row in await scheduler.rows()} == set(queues)
    assert scheduler.scheduler._connections[0]._raw is connected


# --- replies -----------------------------------------------------------------------------------------------------

BAD_REPLIES: dict[str, tuple[bytes, dict[str, Any]]] = {
    **{name: (body, {"type": Reply.TYPE}) for name, body in NOT_A_MESSAGE.items() if name != "a duplicated key"},
    "no type": (b'{"worker":"w","outcomes":[]}', {}),
    "an unknown version": (b'{"worker":"w","outcomes":[]}', {"type": "warren.reply.v9"}),
    "a barrier that is none": (b'{"token":5}', {"type": "warren.barrier.v1"}),
    "an outcome that is none": (b'{"worker":"w","outcomes":[{"id":"x"}]}', {"type": Reply.TYPE}),
}


async def test_bad_replies_are_parked(scheduler: RunningScheduler, producer: Producer, worker: StandInWorker) -> None:
    for body, properties in BAD_REPLIES.values():
        await producer.send(body, queue="reply", **properties)
    await works(producer)
    await eventually(lambda: scheduler.parked.total() >= len(BAD_REPLIES))
    rows = await scheduler.rows()
    assert named(BAD_REPLIES, rows) == dict.fromkeys(BAD_REPLIES, ("reply", "undecodable"))
    assert all(row.payload in body for row, (body, _) in zip(rows, BAD_REPLIES.values(), strict=True))
    assert scheduler.ready


async def test_in_a_reply_with_a_bad_outcome_the_others_count(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = hold
    ids = await producer.submit({}, {}, {})
    await eventually(lambda: len(worker.holding) == 3)
    outcomes: list[dict[str, Any]] = [
        {"id": held.id, "lease": held.lease, "attempt": 1, "kind": kind, "result": 1}
        for held, kind in zip(worker.holding.values(), ["succeeded", "exploded", "succeeded"], strict=True)
    ]
    body = json.dumps({"worker": worker.name, "outcomes": outcomes}).encode()
    await producer.send(body, queue="reply", type=Reply.TYPE)
    results = await producer.results([outcome["id"] for outcome in outcomes])
    assert [result.state for result in results] == ["succeeded", "failed", "succeeded"]
    # It has run: to run it again would bring the same.
    assert results[1].error is not None
    assert (results[1].error.kind, "exploded" in results[1].error.message) == (ErrorKind.BAD_RESULT, True)
    (row,) = await scheduler.rows()
    assert b"exploded" in row.payload
    assert sorted(ids) == sorted(outcome["id"] for outcome in outcomes)


@pytest.mark.parametrize("result", [b'"\xff\xfe"', b'"\xed\xa0\x80"'], ids=["invalid UTF-8", "a surrogate in UTF-8"])
async def test_a_result_that_cannot_be_stored_fails_the_task_and_no_other(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, result: bytes
) -> None:
    worker.decide = hold
    ids = await producer.submit({}, {}, {})
    await eventually(lambda: len(worker.holding) == 3)
    held = list(worker.holding.values())
    outcomes = [
        b'{"id":"%s","lease":"%s","attempt":1,"kind":"succeeded","result":%s}'
        % (each.id.encode(), each.lease.encode(), result if number == 1 else b"1")
        for number, each in enumerate(held)
    ]
    body = b'{"worker":"w","outcomes":[' + b",".join(outcomes) + b"]}"
    await producer.send(body, queue="reply", type=Reply.TYPE)
    await producer.results(ids)
    assert [producer.told[each.id].state for each in held] == ["succeeded", "failed", "succeeded"]
    error = producer.told[held[1].id].error
    assert error is not None
    assert error.kind is ErrorKind.BAD_RESULT


async def test_forged_and_stale_outcomes_change_nothing(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = hold
    (id_,) = await producer.submit()
    (held,) = await eventually(lambda: list(worker.holding.values()))
    for forged in (
        {"lease": "AAAAAAAAAAAAAAAAAAAAAA"},
        {"lease": ""},
        {"attempt": 2},
        {"attempt": 10**30},
        {"id": new_task_id()},
        {"id": "' OR 1=1 --"},
        {"kind": "returned", "lease": "forged", "reason": "redelivered"},
        {"kind": "held", "lease": "forged"},
    ):
        outcome = {"id": id_, "lease": held.lease, "attempt": 1, "kind": "succeeded", "result": "forged"} | forged
        body = json.dumps({"worker": "forger", "outcomes": [outcome]}).encode()
        await producer.send(body, queue="reply", type=Reply.TYPE)
    await worker.finish()
    result = await producer.result(id_)
    assert (result.state, bytes(result.result)) == ("succeeded", b"5")


async def test_what_was_redelivered_after_its_end_counts_for_its_queue(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    (id_,) = await producer.submit({"queue": "default"})
    await producer.result(id_)
    outcomes = [{"id": each, "lease": "x", "attempt": 1, "kind": "returned"} for each in (id_, new_task_id())]
    await producer.send(json.dumps({"worker": "w", "outcomes": outcomes}).encode(), queue="reply", type=Reply.TYPE)
    await eventually(lambda: scheduler.returned.total() == 2)
    assert scheduler.returned == {("default", "redelivered"): 1, ("other", "redelivered"): 1}


# --- questions, dead letters, beats ------------------------------------------------------------------------------

BAD_QUESTIONS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    **{name: ("undecodable", body, {}) for name, body in NOT_A_MESSAGE.items()},
    "an unknown kind": ("undecodable", b'{"kind":"cancel","ids":[]}', {}),
    "an id that is none": ("undecodable", b'{"kind":"status","ids":["x"]}', {}),
    "too many ids": ("undecodable", json.dumps({"kind": "status", "ids": [KNOWN] * 1001}).encode(), {}),
    "no type": ("undecodable", b'{"kind":"status","ids":[]}', {"type": ""}),
    "no reply_to": ("foreign_reply_to", b'{"kind":"status","ids":[]}', {"reply_to": None}),
    "a foreign reply_to": ("foreign_reply_to", b'{"kind":"status","ids":[]}', {"reply_to": "amq.gen-x"}),
    "no user": ("foreign_reply_to", b'{"kind":"status","ids":[]}', {"user_id": None}),
}


async def test_bad_questions_are_parked_and_the_next_one_is_answered(
    scheduler: RunningScheduler, producer: Producer
) -> None:
    for _, body, properties in BAD_QUESTIONS.values():
        await producer.send(body, queue="request", **properties)
    (id_,) = await producer.submit()
    await eventually(lambda: scheduler.parked.total() >= len(BAD_QUESTIONS))
    assert (await producer.status(id_))["state"] == "queued"
    rows = await scheduler.rows()
    expected = {name: ("request", reason) for name, (reason, _, _) in BAD_QUESTIONS.items()}
    assert named(BAD_QUESTIONS, rows) == expected
    assert [row.payload for row in rows] == [body for _, body, _ in BAD_QUESTIONS.values()]


async def test_bad_dead_letters_are_parked(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    for body in NOT_A_MESSAGE.values():
        await producer.send(body, queue="dead", type=Bundle.TYPE)
    await works(producer)
    await eventually(lambda: scheduler.parked.total() >= len(NOT_A_MESSAGE))
    rows = await scheduler.rows()
    assert named(NOT_A_MESSAGE, rows) == dict.fromkeys(NOT_A_MESSAGE, ("dead", "undecodable"))
    assert [row.payload for row in rows] == list(NOT_A_MESSAGE.values())


GOOD_BEAT: dict[str, Any] = {
    "worker": "w",
    "number": 1,
    "queues": ["default"],
    "slots": 1,
    "running": [],
    "waiting": [],
}
BAD_BEATS: dict[str, bytes] = {
    **NOT_A_MESSAGE,
    "a queue with a name of 300": json.dumps(GOOD_BEAT | {"queues": ["q" * 300]}).encode(),
    "a queue that is no name": json.dumps(GOOD_BEAT | {"queues": ["#"]}).encode(),
    "a thousand million slots": json.dumps(GOOD_BEAT | {"slots": 10**9}).encode(),
    "less than no slots": json.dumps(GOOD_BEAT | {"slots": -5}).encode(),
    "a worker with a name of 300": json.dumps(GOOD_BEAT | {"worker": "w" * 300, "asking": "1"}).encode(),
    "a worker that is no name": json.dumps(GOOD_BEAT | {"worker": "#"}).encode(),
    "too many queues": json.dumps(GOOD_BEAT | {"queues": [f"q{n}" for n in range(2000)]}).encode(),
}


async def test_bad_beats_are_dropped_and_the_next_one_is_heard(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    workers = scheduler.scheduler._directory.workers
    for body in BAD_BEATS.values():
        await producer.send(body, queue="beat", type=Beat.TYPE, mandatory=False)
    heard = workers[worker.name].beat.number
    await eventually(lambda: workers[worker.name].beat.number > heard + 1)
    assert set(workers) == {worker.name}
    await works(producer)

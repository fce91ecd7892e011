"""What is taken of a submission, and what is refused with which reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.broker import Delivery
from common.ids import new_task_id
from common.topology import Topology
from common.wire import ErrorKind, Submission
from scheduler_service.reception import Limits, Refusal, check_reply_to, parked_message, read
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.tasks import NewTask

TOPOLOGY = Topology("warren")
LIMITS = Limits(task_bytes=1000, depth=5, message_bytes=5000)


def delivery(body: bytes | list[Any], **properties: Any) -> Delivery:
    """A submission as it arrives; a list is its tasks."""
    made = Delivery.__new__(Delivery)
    made.body = body if isinstance(body, bytes) else json.dumps({"tasks": body}).encode()
    given: dict[str, Any] = {"type": Submission.TYPE, "user_id": "anna", "reply_to": None, "correlation_id": None}
    given["headers"] = {}
    for name, value in (given | properties).items():
        setattr(made, name, value)
    return made


def task(**fields: Any) -> dict[str, Any]:
    return {"id": new_task_id(), "task": "add", **fields}


def raw_task(args: bytes) -> bytes:
    return b'{"tasks":[{"id":"%s","task":"add","args":%s}]}' % (new_task_id().encode(), args)


def taken(*deliveries: Delivery) -> tuple[list[NewTask], list[ParkedMessage]]:
    """What is taken as it is, and what is parked."""
    new, parked = read(deliveries, TOPOLOGY, LIMITS)
    return [each for each in new if each.refusal is None], parked


def test_tasks_are_taken_in_order_with_their_owner_and_where_to_tell() -> None:
    tasks = [task(args=[1]), task(kwargs={"x": "ü"}, queue="email", priority=9), task()]
    inbox = TOPOLOGY.client_queue("anna", "n").name
    new, parked = read([delivery(tasks[:2], reply_to=inbox), delivery(tasks[2:], user_id="bob")], TOPOLOGY, LIMITS)
    assert parked == []
    assert [each.message.id for each in new] == [each["id"] for each in tasks]
    assert [(each.owner, each.reply_to) for each in new] == [("anna", inbox), ("anna", inbox), ("bob", None)]
    assert (new[0].args, new[0].kwargs, new[1].kwargs) == ("[1]", "{}", '{"x": "\\u00fc"}')
    assert (new[1].message.queue, new[1].message.priority) == ("email", 9)
    assert {(each.placement, each.refusal) for each in new} == {(None, None)}


REFUSED_WHOLE: dict[str, tuple[str, Delivery]] = {
    "dead-lettered": ("dead_lettered", delivery([task()], headers={"x-death": "[...]"})),
    "dead-lettered, first": ("dead_lettered", delivery([task()], headers={"x-first-death-queue": "q"})),
    "no user": ("no_user", delivery([task()], user_id=None)),
    "an empty user": ("no_user", delivery([task()], user_id="")),
    "another user's queue": ("foreign_reply_to", delivery([task()], reply_to="warren.client.bob.n")),
    "the reply queue": ("foreign_reply_to", delivery([task()], reply_to="warren.reply")),
    "no type": ("unknown_type", delivery([task()], type=None)),
    "another version": ("unknown_type", delivery([task()], type="warren.submission.v2")),
    "not JSON": ("undecodable", delivery(b"hello")),
    "empty": ("undecodable", delivery(b"")),
    "another form": ("undecodable", delivery(b'{"task":"add"}')),
    "NaN": ("undecodable", delivery(raw_task(b"[NaN]"))),
    "too large": ("too_large", delivery([task() for _ in range(100)])),
}


@pytest.mark.parametrize("name", REFUSED_WHOLE)
def test_a_message_is_refused_as_a_whole(name: str) -> None:
    reason, bad = REFUSED_WHOLE[name]
    new, parked = read([delivery([task()]), bad, delivery([task()])], TOPOLOGY, LIMITS)
    assert [each.refusal for each in new] == [None, None]
    (message,) = parked
    assert (message.origin, message.reason, message.payload) == ("submit", reason, bad.body)
    assert message.detail


def test_json_that_the_decoder_cannot_nest_into_is_refused_and_nothing_overflows() -> None:
    limits = Limits(task_bytes=10**7, depth=5, message_bytes=10**7)
    # Python up to 3.13 gives up after a thousand levels or ten, 3.14 only when the stack is used up.
    new, parked = read([delivery(raw_task(b"[" * 10**6 + b"]" * 10**6))], TOPOLOGY, limits)
    assert new == []
    assert [message.reason for message in parked] == ["undecodable"]


@pytest.mark.parametrize(
    "bad",
    [{"id": "x", "task": "add"}, {"task": "add"}, task(task="rm -rf"), task(queue="#"), task(priority=99), 5, None, []],
)
def test_a_task_that_cannot_be_read_is_parked_and_its_neighbours_are_taken(bad: Any) -> None:
    good = [task(), task()]
    new, parked = taken(delivery([good[0], bad, good[1]]))
    assert [each.message.id for each in new] == [each["id"] for each in good]
    (message,) = parked
    assert message.reason == "undecodable"
    assert json.loads(message.payload) == bad


REFUSED_TASKS: dict[str, tuple[str, bytes]] = {
    "too large": ("too_large", b'["' + b"x" * 1000 + b'"]'),
    "too deep": ("too_deep", b"[[[[[[" + b" " * 20 + b"]]]]]]"),
    "args that are no array": ("undecodable", b'{"a":1}'),
    "args that are a number": ("undecodable", b"5"),
    "arguments in another encoding": ("undecodable", b'["\xff\xfe"]'),
}


@pytest.mark.parametrize("name", REFUSED_TASKS)
def test_a_task_that_can_be_read_but_is_not_taken_fails_so_that_its_owner_is_told(name: str) -> None:
    reason, args = REFUSED_TASKS[name]
    inbox = TOPOLOGY.client_queue("anna", "n").name
    bad = delivery(raw_task(args), reply_to=inbox)
    (new,), (message,) = read([bad], TOPOLOGY, LIMITS)
    assert new.refusal is not None
    assert new.refusal.kind is ErrorKind.REFUSED
    assert (new.owner, new.reply_to, new.args, new.kwargs) == ("anna", inbox, "[]", "{}")
    assert (message.origin, message.reason, message.owner) == ("submit", reason, "anna")
    assert args in message.payload


def test_arguments_at_the_limits_are_taken() -> None:
    deep = b"[[[[[" + b" " * 20 + b"]]]]]"
    large = b'["' + b"x" * (LIMITS.task_bytes - 6) + b'"]'
    new, parked = taken(delivery(raw_task(deep)), delivery(raw_task(large)))
    assert (len(new), parked) == (2, [])


def test_args_and_kwargs_count_together() -> None:
    half = "x" * 500
    new, parked = taken(delivery([task(args=[half], kwargs={"x": half})]))
    assert (new, [message.reason for message in parked]) == ([], ["too_large"])


def test_numbers_beyond_a_float_travel_as_they_are() -> None:
    """What they mean is for the function's annotations to say, not for the scheduler."""
    new, parked = taken(delivery(raw_task(b"[1e999, 123456789012345678901234567890]")))
    assert parked == []
    assert new[0].args == "[1e999, 123456789012345678901234567890]"


@pytest.mark.parametrize("user", ["anna", "a.b", "client", "guest"])
def test_a_users_own_queues_may_be_told(user: str) -> None:
    for nonce in ("n", "A-b_9", "x" * 64):
        check_reply_to(TOPOLOGY.client_queue(user, nonce).name, user, TOPOLOGY)


@pytest.mark.parametrize(
    "reply_to",
    [
        "",
        "warren.client.anna",
        "warren.client.anna.",
        "warren.client.anna." + "x" * 65,
        "warren.client.anna.a.b",
        "warren.client.anna.#",
        "warren.client.anna.\n",
        "warren.client.anna.\u0661",
        "warren.client.anna.é",
        "warren.client.annabel.n",
        "warren.client.bob.n",
        "warren.work.default",
        "warren.submit",
        "other.client.anna.n",
        "amq.rabbitmq.reply-to",
    ],
)
def test_other_queues_are_not_told(reply_to: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_reply_to(reply_to, "anna", TOPOLOGY)
    assert refused.value.reason == "foreign_reply_to"


def test_nobody_has_no_queue() -> None:
    with pytest.raises(Refusal):
        check_reply_to("warren.client..n", "", TOPOLOGY)


def test_what_is_parked_keeps_what_came_and_from_whom_but_no_endless_headers() -> None:
    headers = {"traceparent": "00-1", "many": "x" * 5000, "table": {"a": [1]}}
    made = parked_message("reply", delivery(b"\xff", headers=headers, reply_to="r"), "undecodable", "why")
    assert (made.payload, made.owner, made.headers["reply_to"]) == (b"\xff", "anna", "r")
    assert made.headers["traceparent"] == "00-1"
    assert all(len(value) <= 1000 for value in made.headers.values())

"""The wire format: pinned by golden files, strict about what it reads, forgiving about what it does not know."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from common import wire
from common.administration import WorkerState
from common.errors import WireError
from common.ids import new_task_id
from common.questions import Ask, AskKind, DeadVerb
from common.quotas import Scope
from common.wire import (
    DEEPEST,
    Beat,
    Bundle,
    ControlVerb,
    ErrorKind,
    Isolation,
    Message,
    OutcomeKind,
    RawReply,
    RawSubmission,
    Reply,
    ReturnReason,
    Submission,
    TaskMessage,
    check_type,
    decode,
    encode,
    json_depth,
)
from tests.support.golden import ADD, GOLDEN, MESSAGES

NAMES = sorted(MESSAGES)


def on_the_wire(name: str) -> bytes:
    """The golden file `name` without its line breaks, as Warren writes it."""
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def with_unknown_fields(value: Any) -> Any:
    """`value` with a field more in each object that is no argument, no result and no mapping of a user's words."""
    if isinstance(value, list):
        return [with_unknown_fields(item) for item in value]
    if not isinstance(value, dict):
        return value
    opaque = ("args", "kwargs", "result", "progress", "states", "labels", "data")
    kept = {key: item if key in opaque else with_unknown_fields(item) for key, item in value.items()}
    return {"from_the_future": {"a": [1]}, **kept}


@pytest.mark.parametrize("name", NAMES)
def test_a_message_is_written_as_in_its_golden_file(name: str) -> None:
    assert encode(MESSAGES[name]) == on_the_wire(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_is_read_as_its_message(name: str) -> None:
    assert decode(type(MESSAGES[name]), on_the_wire(name)) == MESSAGES[name]


@pytest.mark.parametrize("name", NAMES)
def test_fields_that_are_not_known_are_ignored(name: str) -> None:
    document = with_unknown_fields(json.loads(on_the_wire(name)))
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    assert decode(type(MESSAGES[name]), body) == MESSAGES[name]


def test_every_kind_of_message_has_a_golden_file_and_every_file_a_message() -> None:
    assert {type(message) for message in MESSAGES.values()} == set(Message.__subclasses__()) - {RawReply, RawSubmission}
    assert {path.stem for path in GOLDEN.iterdir()} == set(MESSAGES)


def test_the_names_of_the_types_say_kind_and_version() -> None:
    assert sorted({kind.TYPE for kind in Message.__subclasses__()}) == [
        f"warren.{kind}.v1"
        for kind in (
            *("answer", "ask", "barrier", "beat", "bundle", "cancel", "cancelled", "change", "changes"),
            *("command-answers", "command", "control", "dead-letters", "dead", "list-changes", "list-queues"),
            *("list-quotas", "list-workers", "list", "progress", "queues", "quotas", "rearrange", "rearranged"),
            *("reply", "set-quota", "statuses", "submission", "told", "workers"),
        )
    ]


def test_the_words_of_the_enumerations_are_pinned() -> None:
    assert [*ErrorKind] == [
        *("exception", "bad_arguments", "bad_result", "crashed", "unknown_function", "refused"),
        *("timeout", "gave_up", "retry"),
    ]
    assert [*OutcomeKind] == ["succeeded", "failed", "returned", "held"]
    assert [*ReturnReason] == [
        "redelivered",
        "drain",
        "busy",
        "unknown_function",
        "undecodable",
        "expired",
        "cancelled",
        "away",
    ]
    assert [*ControlVerb] == [
        *("probe", "cancel", "mark", "renew"),
        *("ping", "stats", "stacks", "drain", "resume", "slots", "shutdown", "log-level"),
    ]
    assert [*Scope] == ["queue", "task", "key"]
    assert [*WorkerState] == ["alive", "paused", "draining", "silent", "lost"]
    assert [*AskKind] == ["wait", "status"]
    assert [*DeadVerb] == ["list", "show", "replay", "purge"]
    assert [*Isolation] == ["none", "child", "alone"]


@pytest.mark.parametrize("actual", [None, "", "warren.submission.v2", "warren.reply.v1", "submission"])
def test_another_type_or_version_is_refused(actual: str | None) -> None:
    with pytest.raises(WireError, match=re.escape(repr(actual))):
        check_type(Submission, actual)


def test_the_expected_type_is_taken() -> None:
    for kind in Message.__subclasses__():
        check_type(kind, kind.TYPE)


GOOD = {"id": ADD, "task": "add"}
GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"hello",
    "cut short": b'{"tasks":[{"id":"',
    "two documents": b'{"tasks":[]}{"tasks":[]}',
    "a number": b"1e999",
    "null": b"null",
    "an array": b"[]",
    "NaN": b'{"tasks":[{"id":"%s","task":"add","args":[NaN]}]}' % ADD.encode(),
    "invalid UTF-8": b'{"tasks":[{"id":"%s","task":"\xff\xfe"}]}' % ADD.encode(),
    "a lone surrogate": b'{"tasks":[{"id":"%s","task":"\\ud800"}]}' % ADD.encode(),
    "UTF-16": '{"tasks":[]}'.encode("utf-16"),
    "nested too deep": b'{"tasks":[{"id":"%s","task":"add","args":%s}]}' % (ADD.encode(), b"[" * 10**6 + b"]" * 10**6),
    "only opened": b"[" * 1_000_000,
    "no tasks": b"{}",
    "tasks of another type": b'{"tasks":{}}',
}  # fmt: skip


INSIDE_A_TASK = {"invalid UTF-8", "a lone surrogate"}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_with_one_error(name: str) -> None:
    with pytest.raises(WireError):
        decode(Submission, GARBAGE[name])


@pytest.mark.parametrize("name", sorted(set(GARBAGE) - INSIDE_A_TASK))
def test_garbage_around_the_tasks_is_refused_without_looking_into_them(name: str) -> None:
    with pytest.raises(WireError):
        decode(RawSubmission, GARBAGE[name])


WRONG_FIELDS: list[tuple[str, Any]] = [
    ("id", None),
    ("id", 5),
    ("id", "1"),
    ("id", ADD.upper().replace("0", "A")),
    ("id", ADD + "\n"),
    ("id", "../../etc/passwd"),
    ("task", ""),
    ("task", "1add"),
    ("task", "add it"),
    ("task", "os;rm"),
    ("task", "add\n"),
    ("task", "a" * 129),
    ("task", "ädd"),
    ("queue", ""),
    ("queue", "#"),
    ("queue", "a*b"),
    ("queue", ".hidden"),
    ("queue", "default\n"),
    ("queue", "q" * 65),
    ("priority", -1),
    ("priority", 10),
    ("priority", 1.5),
    ("priority", "4"),
    ("priority", True),
    ("priority", 10**30),
]


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS)
def test_a_task_with_a_wrong_field_is_refused_and_the_error_names_it(field: str, value: Any) -> None:
    with pytest.raises(WireError, match=field):
        decode(TaskMessage, json.dumps({**GOOD, field: value}, ensure_ascii=False).encode())


@pytest.mark.parametrize("missing", ["id", "task"])
def test_a_task_without_a_required_field_is_refused(missing: str) -> None:
    with pytest.raises(WireError, match=missing):
        decode(TaskMessage, json.dumps({key: value for key, value in GOOD.items() if key != missing}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b'{"worker":"w","outcomes":[{"id":"1","lease":"l","attempt":1,"kind":"exploded"}]}',
        b'{"worker":"w","outcomes":[{"id":"1","lease":"l","attempt":"1","kind":"held"}]}',
        b'{"worker":"w","outcomes":[{"id":"1","lease":null,"attempt":1,"kind":"held"}]}',
        b'{"worker":"w"}',
        b'{"outcomes":[]}',
    ],
)
def test_wrong_replies_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(Reply, body)


def test_a_question_about_too_many_tasks_is_refused() -> None:
    ids = [new_task_id() for _ in range(wire.MAX_PACK_ITEMS + 1)]
    assert len(decode(Ask, json.dumps({"kind": "wait", "ids": ids[:-1]}).encode()).ids) == wire.MAX_PACK_ITEMS
    with pytest.raises(WireError, match="ids"):
        decode(Ask, json.dumps({"kind": "wait", "ids": ids}).encode())


def test_an_error_says_where_the_fault_is() -> None:
    with pytest.raises(WireError, match=re.escape("$.tasks[1].priority")):
        decode(Submission, json.dumps({"tasks": [GOOD, {**GOOD, "priority": 99}]}).encode())


def test_arguments_travel_as_they_are() -> None:
    raw = b'[ 1.50, "\\u00fc", 123456789012345678901234567890, 1e999 ]'
    task = decode(TaskMessage, b'{"id":"%s","task":"add","args":%s}' % (ADD.encode(), raw))
    assert bytes(task.args) == raw
    assert raw in encode(Submission([task]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(json_values, max_size=3), st.integers(0, 9))
def test_a_task_survives_the_way(args: list[Any], priority: int) -> None:
    task = TaskMessage(ADD, "add", Raw(msgspec.json.encode(args)), priority=priority)
    there = decode(Submission, encode(Submission([task]))).tasks[0]
    assert there == task
    assert msgspec.json.decode(there.args) == args


def depth_of(value: Any) -> int:
    """The depth of decoded JSON, the obvious way."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(json_values)
def test_the_depth_of_json_is_counted_without_decoding_it(value: Any) -> None:
    assert json_depth(msgspec.json.encode(value)) == depth_of(value)
    assert json_depth(json.dumps(value, indent=1).encode()) == depth_of(value)


@pytest.mark.parametrize(
    ("raw", "depth"),
    [
        (b"5", 0),
        (b"[]", 1),
        (b'"[[["', 0),
        (b'["[[["]', 1),
        (b'["\\"[", {}]', 2),
        (b'["\\\\", [[]]]', 3),
        (b"[" * 100_000 + b"]" * 100_000, DEEPEST + 1),
    ],
)
def test_the_depth_of_json(raw: bytes, depth: int) -> None:
    assert json_depth(raw) == depth


def test_a_bundle_and_a_beat_with_the_least_that_is_needed_are_read() -> None:
    """What a program of the first version wrote stays readable: no field may become required later."""
    bundle = decode(Bundle, b'{"queue":"q","tasks":[{"id":"i","task":"t","lease":"l","attempt":1}]}')
    assert bundle.tasks[0].isolation is Isolation.NONE
    beat = decode(Beat, b'{"worker":"w","number":1,"queues":[],"slots":0,"running":[],"waiting":[]}')
    assert (beat.draining, beat.leaving, beat.probe, beat.functions) == (False, False, "", None)

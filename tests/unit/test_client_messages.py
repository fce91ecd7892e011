"""What can be wrong with a call is found before anything is sent."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from common import AsyncClient, Client
from common.client.messages import MAX_DEPTH, message, prepare, prepare_many
from common.client.options import Chosen
from common.errors import InvalidTask, SettingsError
from common.ids import new_task_id
from common.options import TaskOptions
from common.tasks import Call, Registry, call, task
from common.wire import EMPTY_ARGS, EMPTY_KWARGS, TaskMessage, decode, encode
from common.words import EQUAL

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


@given(st.lists(JSON, max_size=4), st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_arguments_survive_the_wire(args: list[Any], kwargs: dict[str, Any]) -> None:
    sent = decode(TaskMessage, encode(message(Call("t", tuple(args), kwargs))))

    assert msgspec.json.decode(sent.args) == args
    assert msgspec.json.decode(sent.kwargs) == kwargs


def test_without_arguments_nothing_is_sent_for_them() -> None:
    sent = message(call("t"))
    assert (sent.args, sent.kwargs) == (EMPTY_ARGS, EMPTY_KWARGS)
    assert encode(sent) == encode(TaskMessage(sent.id, "t"))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        (object(), "written as JSON"),
        ("\ud800", "written as JSON"),
        ({(1, 2): 3}, "written as JSON"),
        (float("nan"), "NaN"),
        ([None, {"a": [float("-inf")]}], "NaN"),
        (nested(MAX_DEPTH), "deep"),
        (nested(100_000), "deep"),
        (itself(), "deep"),
        ("x" * 300_000, "262,144 are allowed"),
        (Raw(b"{nope"), "raw JSON, and wrong"),
        ({"a": [Raw(b"}}")]}, "raw JSON, and wrong"),
        (Raw(b""), "raw JSON, and wrong"),
        (Raw(b"1e999"), "raw JSON, and wrong"),
        (Raw(b'"\xff"'), "raw JSON, and wrong"),
    ],
)
def test_what_json_cannot_say_is_refused(argument: Any, reason: str) -> None:
    with pytest.raises(InvalidTask, match=reason):
        message(call("t", argument))
    with pytest.raises(InvalidTask, match=reason):
        message(call("t", x=argument))


def test_what_only_looks_wrong_is_taken() -> None:
    message(call("t", nested(MAX_DEPTH - 1)))
    message(call("t", "[" * 1000))
    message(call("t", [[]] * 1000))
    message(call("t", None, "null", [None], 1.5))
    assert bytes(message(call("t", Raw(b'{"a": 1}'))).args) == b'[{"a": 1}]'
    assert bytes(message(call("t", Raw(b'{"a":null}'), None)).args) == b'[{"a":null},null]'


class Text(str):
    """A kind of string that is not exactly one, as libraries have them; msgspec refuses to write it."""


def test_names_that_are_a_kind_of_string_are_taken_and_ids_are_not() -> None:
    sent = message(call(Text("t")).options(queue=Text("q")))
    assert (type(sent.task), type(sent.queue)) == (str, str)
    assert encode(sent)
    with pytest.raises(InvalidTask, match="plain string"):
        message(call("t").options(task_id=Text(new_task_id())))
    with pytest.raises(InvalidTask, match="plain string"):
        Client("amqp://localhost").handle(Text(new_task_id()))


@pytest.mark.parametrize("limit", [0, -1, 8 * 1024 * 1024 + 1, "many", 1.5])
def test_a_client_s_limit_is_one_that_a_scheduler_can_have(limit: Any) -> None:
    with pytest.raises(SettingsError, match="max_task_bytes"):
        Client("amqp://localhost", max_task_bytes=limit)
    with pytest.raises(SettingsError, match="max_task_bytes"):
        AsyncClient("amqp://localhost", max_task_bytes=limit)


@pytest.mark.parametrize(
    "wrong",
    [
        Call(5),  # type: ignore[arg-type]
        5,
        Call("no spaces"),
        Call("t", queue=["a"]),  # type: ignore[arg-type]
        Call("t", priority=4.0),  # type: ignore[arg-type]
        Call("t", priority=10),
        Call("t", task_id="x"),
    ],
)
def test_wrong_names_and_options_are_refused(wrong: Call[Any]) -> None:
    with pytest.raises(InvalidTask):
        message(wrong)


def test_options_come_before_the_functions_own() -> None:
    own: Registry = {}

    @task(registry=own, queue="own", priority=1)
    def function() -> None: ...

    assert (message(call(function)).queue, message(call(function)).priority) == ("own", 1)
    task_id = new_task_id()
    sent = message(call(function).options(queue="other", priority=0, task_id=task_id))
    assert (sent.id, sent.queue, sent.priority) == (task_id, "other", 0)
    assert prepare(call(function)).result_type is type(None)


def test_options_for_many_do_not_override_those_of_a_call() -> None:
    calls = [call("a"), call("b").options(queue="own"), call("c").options(priority=0)]
    got = [(made.queue, made.priority) for made in Chosen("all", 5).for_many(calls)]

    assert got == [("all", 5), ("own", 5), ("all", 0)]


def test_the_wrong_one_of_many_is_named() -> None:
    calls = [call("a"), call("b", float("inf"))]
    with pytest.raises(InvalidTask, match=r"call 7 \(from 0\): .*'b'.*; the first 6 calls were submitted"):
        prepare_many(calls, 1000, None, first=6, sent=6)


def test_options_travel_with_the_task_where_something_was_said() -> None:
    assert message(call("a")).options is None
    assert message(call("a"), TaskOptions(retries=3)).options == TaskOptions(retries=3)


def test_one_name_cannot_be_that_of_many_calls() -> None:
    for chosen in (Chosen(task_id=new_task_id()), Chosen(extra=TaskOptions(unique="x"))):
        with pytest.raises(InvalidTask, match="one "):
            chosen.for_many([call("a")])
    assert list(Chosen(extra=TaskOptions(unique=EQUAL)).for_many([call("a")]))


def test_unique_without_a_name_means_the_function_and_its_arguments() -> None:
    def unique(made: Call[Any]) -> str:
        options = message(made, TaskOptions(unique=EQUAL)).options
        assert options is not None
        assert options.unique is not None
        return options.unique

    assert unique(call("a", 1, x=1, y=2)) == unique(call("a", 1, y=2, x=1))
    others = [call("a", 2, x=1, y=2), call("a", 1), call("b", 1, x=1, y=2), call("a", "1", x=1, y=2)]
    assert len({unique(made) for made in [call("a", 1, x=1, y=2), *others]}) == 5
    assert unique(call("n" * 128)).startswith("n" * 60 + ":")


def test_options_count_with_the_arguments() -> None:
    message(call("a", "x" * 90), max_bytes=100)
    with pytest.raises(InvalidTask, match="with the options, 100 are allowed"):
        message(call("a", "x" * 90), TaskOptions(key="k" * 100), max_bytes=100)


def test_options_of_a_wrong_form_are_found_before_anything_is_sent() -> None:
    with pytest.raises(InvalidTask, match=r"options of 'a'.*retries"):
        message(call("a"), TaskOptions(retries=-1))


def test_the_callers_word_counts_before_the_submitters_and_that_before_the_decorators() -> None:
    own: Registry = {}

    @task(registry=own, expires_in=60, result_ttl=5, retries=9)
    def function() -> None: ...

    chosen = Chosen().and_also(None, None, None, {"key": "all", "result_ttl": 6}).extra
    assert message(call(function)).options == TaskOptions(expires_in=60, result_ttl=5), "the worker knows of retries"
    assert message(call("function"), chosen).options == TaskOptions(key="all", result_ttl=6)
    assert message(call(function).options(key="one", expires_at=2e9), chosen).options == TaskOptions(
        key="one", expires_at=2e9, result_ttl=6
    )


def test_the_labels_that_a_decorator_requires_travel_with_those_of_the_submission() -> None:
    own: Registry = {}

    @task(registry=own, requires={"gpu"})
    def function() -> None: ...

    assert message(call(function)).options == TaskOptions(requires=("gpu",))
    assert message(call(function).options(requires="ssd")).options == TaskOptions(requires=("gpu", "ssd"))


def test_a_decorator_has_defaults_for_each_submission_of_its_function() -> None:
    @task(registry={}, delay=timedelta(minutes=1), unique=True, key="reports", labels={"team": "a", "job": "b"})
    def function(x: int) -> None: ...

    sent = message(call(function, 1)).options
    assert sent is not None
    assert (sent.delay, sent.key, sent.labels) == (60.0, "reports", {"team": "a", "job": "b"})
    same, other = message(call(function, 1)).options, message(call(function, 2)).options
    assert same == sent
    assert other is not None
    assert other.unique != sent.unique
    said = call(function, 1).options(delay=0, unique=False, key="own", labels={"job": "c"})
    assert message(said).options == TaskOptions(delay=0.0, key="own", labels={"team": "a", "job": "c"})
    chosen = Chosen().and_also(None, None, None, {"unique": False, "run_at": 2e9}).extra
    assert message(call(function, 1), chosen).options == TaskOptions(
        run_at=2e9, key="reports", labels={"team": "a", "job": "b"}
    )
    assert message(call("function", 1)).options is None
    assert message(call("function", 1).options(unique=False)).options is None


def test_a_timeout_behind_the_hard_one_of_the_decorator_is_refused() -> None:
    @task(name="a", registry={}, hard_timeout=10)
    def function() -> None: ...

    with pytest.raises(InvalidTask, match=r"that the decorator of 'a' declares \(10 s\) comes before this timeout"):
        message(call(function), TaskOptions(timeout=60))
    assert message(call(function), TaskOptions(timeout=60, hard_timeout=90)).options is not None
    assert message(call(function), TaskOptions(timeout=10)).options is not None
    assert message(call(function), TaskOptions(hard_timeout=5)).options is not None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (TaskOptions(delay=60, expires_in=60), "would expire before it is due"),
        (TaskOptions(run_at=2e9, expires_at=1.9e9), "would expire before it is due"),
        (TaskOptions(run_at=4e9, expires_in=60), "would expire before it is due"),
        (TaskOptions(delay=1e9, expires_at=1.9e9), "would expire before it is due"),
        (TaskOptions(timeout=5, hard_timeout=4), r"hard_timeout of 'a' \(4 s\) comes before its timeout"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: TaskOptions, reason: str) -> None:
    with pytest.raises(InvalidTask, match=reason):
        message(call("a"), options)

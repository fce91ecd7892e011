"""Registering task functions, and making calls of them."""

import functools
import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidTask, Retry
from common.ids import new_task_id
from common.options import NO_POLICY, Backoff, BackoffKind, Policy, TaskOptions
from common.tasks import Registry, Runtime, call, check_target, check_task_id, registry, task
from common.wire import TaskMessage, decode, encode


@pytest.fixture
def own() -> Registry:
    return {}


def test_a_task_function_is_still_the_function(own: Registry) -> None:
    @task(registry=own)
    def add(x: int, y: int = 1) -> int:
        """Add."""
        return x + y

    assert add(2) == 3
    assert (add.name, add.queue, add.priority, add.runtime) == ("add", "default", 4, Runtime.THREAD)
    assert (add.__doc__, add.function.__name__) == ("Add.", "add")
    assert own == {"add": add}


async def test_a_coroutine_function_is_still_one(own: Registry) -> None:
    @task(name="sum.of:two", queue="math", priority=9, registry=own)
    async def add(x: int, y: int) -> int:
        return x + y

    assert await add(2, 3) == 5
    assert (add.name, add.queue, add.priority, add.runtime) == ("sum.of:two", "math", 9, Runtime.COROUTINE)


def test_the_bare_decorator_registers_for_the_process() -> None:
    @task
    def a_name_that_nothing_else_has() -> None: ...

    try:
        assert registry["a_name_that_nothing_else_has"] is a_name_that_nothing_else_has
    finally:
        del registry["a_name_that_nothing_else_has"]


def test_one_name_for_two_functions_is_refused(own: Registry) -> None:
    @task(name="same", registry=own)
    def one() -> None: ...

    with pytest.raises(InvalidTask, match=r"two functions are named 'same': .*one and .*other") as caught:

        @task(name="same", registry=own)
        def other() -> None: ...

    assert "@task(name=...)" in str(caught.value)
    assert own == {"same": one}


def test_the_same_module_may_be_imported_twice(tmp_path: Path, own: Registry) -> None:
    path = tmp_path / "twice.py"
    path.write_text("from common.tasks import task\n@task\ndef twice() -> None: ...\n")
    try:
        for name in ("twice", "__main_again__"):
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            assert registry["twice"] is module.twice
    finally:
        registry.pop("twice", None)
        sys.modules.pop("twice", None)


@pytest.mark.parametrize("name", ["1st", "no spaces", "a" * 129, "ä", "a\n", "-"])
def test_wrong_names_are_refused(name: str, own: Registry) -> None:
    with pytest.raises(InvalidTask, match="task name"):
        task(name=name, registry=own)(lambda: None)
    assert not own


def test_a_lambda_needs_a_name(own: Registry) -> None:
    with pytest.raises(InvalidTask, match="<lambda>"):
        task(registry=own)(lambda: None)
    assert task(name="named", registry=own)(lambda: 1)() == 1


def test_a_callable_object_runs_as_its_call_does(own: Registry) -> None:
    class Worker:
        async def __call__(self, x: int) -> int:
            return x

    assert task(name="object", registry=own)(Worker()).runtime is Runtime.COROUTINE
    assert task(name="partial", registry=own)(functools.partial(max, 1)).runtime is Runtime.THREAD


def test_generators_are_refused(own: Registry) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def more() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, more):
        with pytest.raises(InvalidTask, match="generator"):
            task(registry=own)(function)


def test_an_attribute_of_the_function_does_not_become_ours(own: Registry) -> None:
    def function() -> None: ...

    function.name = "stolen"  # type: ignore[attr-defined]
    assert task(registry=own)(function).name == "function"


@dataclass
class Point:
    x: int


def test_the_result_type_is_the_annotation(own: Registry) -> None:
    @task(registry=own)
    async def point() -> "Point":
        return Point(1)

    @task(registry=own)
    def bare():  # type: ignore[no-untyped-def]
        return 1

    @task(registry=own)
    def hidden() -> "OnlyForCheckers": ...  # type: ignore[name-defined]  # noqa: F821

    assert point.result_type is Point
    assert bare.result_type is Any
    assert hidden.result_type is Any


@pytest.mark.parametrize(("queue", "priority"), [("", 4), ("a b", 4), ("a" * 65, 4), ("q", -1), ("q", 10), ("q", True)])
def test_wrong_queues_and_priorities_are_refused(queue: str, priority: int, own: Registry) -> None:
    with pytest.raises(InvalidTask):
        task(name="x", queue=queue, priority=priority, registry=own)(lambda: None)


@given(st.text(max_size=140), st.text(max_size=70), st.integers(-3, 12))
def test_what_we_let_through_the_wire_lets_through_and_nothing_else(name: str, queue: str, priority: int) -> None:
    body = encode(TaskMessage(new_task_id(), name, queue=queue, priority=priority))
    try:
        decode(TaskMessage, body)
        wire_takes_it = True
    except ValueError:
        wire_takes_it = False
    try:
        check_target(name, queue, priority)
        we_take_it = True
    except InvalidTask:
        we_take_it = False

    # Python's `$` also matches before a final newline; there we are the stricter ones.
    assert we_take_it == wire_takes_it or name.endswith("\n") or queue.endswith("\n")
    assert not (we_take_it and not wire_takes_it)


def test_task_ids_are_lower_case_uuids() -> None:
    check_task_id(new_task_id())
    for wrong in ("", "x", new_task_id().upper(), new_task_id() + "0", 5):
        with pytest.raises(InvalidTask):
            check_task_id(wrong)  # type: ignore[arg-type]


def test_a_call_keeps_arguments_and_options_apart(own: Registry) -> None:
    @task(registry=own)
    def send(to: str, queue: str) -> None: ...

    made = call(send, "x", queue="argument").options(queue="mail").options(priority=2)

    assert (made.name, made.args, made.kwargs) == ("send", ("x",), {"queue": "argument"})
    assert (made.queue, made.priority, made.task_id) == ("mail", 2, None)
    assert "x" not in repr(made)[6:], "arguments are not shown"


def test_a_decorator_says_how_its_tasks_may_end(own: Registry) -> None:
    @task(
        registry=own,
        timeout=timedelta(minutes=1),
        hard_timeout=90,
        retries=3,
        backoff="linear",
        retry_on=(OSError, "httpx.HTTPError"),
        give_up_on=PermissionError,
        max_crashes=1,
        memory_limit=64 * 1024 * 1024,
        expires_in=3600,
        result_ttl=timedelta(days=1),
    )
    def work() -> None: ...

    assert work.policy == Policy(
        timeout=60.0,
        hard_timeout=90.0,
        retries=3,
        backoff=Backoff(BackoffKind.LINEAR),
        retry_on=("OSError", "httpx.HTTPError"),
        give_up_on=("PermissionError",),
        max_crashes=1,
        memory_limit=64 * 1024 * 1024,
        expires_in=3600.0,
        result_ttl=86400.0,
    )


def test_a_decorator_that_says_nothing_costs_nothing(own: Registry) -> None:
    @task(registry=own)
    def work() -> None: ...

    assert work.policy is NO_POLICY
    assert work.defaults is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"timeout": 0}, "timeout: expected `float` > 0"),
        ({"timeout": "5"}, "timeout is a number of seconds"),
        ({"timeout": True}, "timeout is a number of seconds"),
        ({"timeout": 10, "hard_timeout": 5}, "hard_timeout (5 s) comes before timeout (10 s)"),
        ({"retries": -1}, "retries: expected `int` >= 0"),
        ({"retries": 1.5}, "retries: expected `int"),
        ({"backoff": "sudden"}, "backoff"),
        ({"backoff": Backoff(base=-1)}, "backoff.base"),
        ({"retry_on": (5,)}, "retry_on takes exception types"),
        ({"give_up_on": int}, "give_up_on takes exception types"),
        ({"max_crashes": 0}, "max_crashes"),
        ({"memory_limit": 1024}, "memory_limit"),
        ({"memory_limit": 2**63 - 1}, "memory_limit"),
        ({"delay": -5}, "delay: expected `float` >= 0"),
        ({"delay": 60, "expires_in": 60}, "with a delay of 60 s and expires_in 60 s it never runs"),
        ({"run_at": 5}, "@task takes no 'run_at', which is about one submission"),
        ({"idempotency_key": "x"}, "@task takes no 'idempotency_key', which is about one submission"),
        ({"labels": {"a": 1}}, "labels[...]: expected `str`"),
        ({"retires": 5}, "@task takes no 'retires'"),
    ],
)
def test_a_decorator_that_says_something_wrong_is_refused(own: Registry, words: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        task(registry=own, **words)(lambda: None)
    assert says in str(raised.value)
    assert own == {}


def test_a_function_may_be_run_in_a_process(own: Registry) -> None:
    @task(registry=own, runtime="process")
    def work() -> None: ...

    @task(registry=own, runtime=Runtime.PROCESS)
    async def wait() -> None: ...

    assert work.runtime is wait.runtime is Runtime.PROCESS
    for wrong in ("fibre", "coroutine"):
        with pytest.raises(InvalidTask, match="cannot have the runtime"):
            task(registry=own, name="wrong", runtime=wrong)(work.function)
    assert task(registry=own, name="fits", runtime="thread")(work.function).runtime is Runtime.THREAD


def test_options_of_a_call_are_added_up() -> None:
    plain = call("add", 1)
    assert plain.extra is None
    assert plain.options(queue="math").extra is None
    due = datetime(2030, 1, 1, tzinfo=UTC)
    first = plain.options(delay=timedelta(minutes=5), retries=3, labels={"tenant": "anna"})
    assert first.extra == TaskOptions(delay=300.0, retries=3, labels={"tenant": "anna"})
    second = first.options(run_at=due, retries=0, labels={"kind": "report"}, queue="math")
    assert second.extra == TaskOptions(run_at=due.timestamp(), retries=0, labels={"tenant": "anna", "kind": "report"})
    assert (second.queue, second.args) == ("math", (1,))
    assert second.options(priority=9).extra == second.extra


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"run_at": datetime(2030, 1, 1)}, "without a time zone; write datetime(..., tzinfo=UTC)"),  # noqa: DTZ001
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at is 2030-01-01T00:00:00 without a time zone"),  # noqa: DTZ001
        ({"delay": 1, "run_at": 5}, "either"),
        ({"delay": -1}, "delay"),
        ({"later": 1}, "no option 'later'"),
    ],
)
def test_a_wrong_option_of_a_call_is_refused(words: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        call("add").options(**words)
    assert says in str(raised.value)


def test_a_retry_knows_when() -> None:
    assert Retry().after is None
    assert Retry(after=timedelta(minutes=1)).after == 60.0
    assert str(Retry(after=2.5)) == "asked to be run again after 2.5 s"
    assert str(Retry(5, "the bank is closed")) == "the bank is closed"
    for wrong in (-1, float("nan"), float("inf"), "5"):
        with pytest.raises(ValueError, match="after is a number of seconds"):
            Retry(wrong)  # type: ignore[arg-type]

"""Registering task functions, and making calls of them."""

import functools
import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidTask
from common.ids import new_task_id
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

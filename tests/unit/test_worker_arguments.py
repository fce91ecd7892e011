"""Raw JSON to arguments, by the annotations."""

import dataclasses
import datetime as dt
import enum
import time
from typing import Any

import pytest
from msgspec import Raw

from common.errors import InvalidTask
from common.tasks import task
from worker_service.arguments import Arguments, BadArguments, check_depth

EMPTY = Raw(b"{}")


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class NotJson:
    pass


def decode(function: Any, args: bytes = b"[]", kwargs: bytes = b"{}", depth: int = 32) -> Any:
    return Arguments(function, "f").decode(Raw(args), Raw(kwargs), depth)


def two(x: int, y: int) -> None: ...
def defaults(x: int, y: int = 2, *, z: int = 3) -> None: ...
def many(first: str, *rest: int, **more: float) -> None: ...
def typed(when: dt.datetime, color: Color, point: Point, maybe: int | None = None) -> None: ...
def untyped(x, y=None): ...  # type: ignore[no-untyped-def]
def nothing() -> None: ...
def positional(x: int, /, y: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (two, b"[1,2]", b"{}", ((1, 2), {})),
        (two, b"[1]", b'{"y":2}', ((1,), {"y": 2})),
        (two, b"[]", b'{"y":2,"x":1}', ((), {"y": 2, "x": 1})),
        (two, b"[1,2]", b"{ }", ((1, 2), {})),
        (defaults, b"[1]", b"{}", ((1,), {})),
        (defaults, b"[1,5]", b"{}", ((1, 5), {})),
        (defaults, b"[1]", b'{"z":9}', ((1,), {"z": 9})),
        (many, b'["a",1,2,3]', b"{}", (("a", 1, 2, 3), {})),
        (many, b'["a"]', b'{"b":1.5,"first2":2}', (("a",), {"b": 1.5, "first2": 2.0})),
        (untyped, b'[[1,{"a":null}]]', b"{}", (([1, {"a": None}],), {})),
        (nothing, b"[]", b"{}", ((), {})),
        (positional, b"[1]", b'{"y":2}', ((1,), {"y": 2})),
    ],
)
def test_good_arguments(function: Any, args: bytes, kwargs: bytes, expected: Any) -> None:
    assert decode(function, args, kwargs) == expected


def test_values_become_what_the_annotations_say() -> None:
    (when, color, point), _ = decode(typed, b'["2026-01-02T03:04:05Z","red",{"x":1}]')
    assert when == dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert color is Color.RED
    assert point == Point(1)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "says"),
    [
        (two, b'[1,"a"]', b"{}", "argument 'y'"),
        (two, b"[1]", b'{"y":"a"}', "argument 'y'"),
        (two, b"[1]", b"{}", "missing"),
        (two, b"[1,2,3]", b"{}", "too many"),
        (two, b"[1,2]", b'{"y":2}', "multiple values"),
        (two, b"[1,2]", b'{"z":2}', "unexpected keyword"),
        (positional, b"[]", b'{"x":1,"y":2}', "positional"),
        (nothing, b"[1]", b"{}", "too many"),
        (defaults, b"[1,2,3]", b"{}", "too many"),
        (many, b'["a",1,"b"]', b"{}", "argument 'rest'"),
        (many, b'["a"]', b'{"b":"c"}', "argument 'b'"),
        (typed, b'["2026-01-02T03:04:05Z","red",{"x":"1"}]', b"{}", "$[2].x"),
        (typed, b'["2026-01-02T03:04:05Z","blue",{"x":1}]', b"{}", "argument 'color'"),
        (untyped, b"[1e999]", b"{}", "out of range"),
        (untyped, b"[NaN]", b"{}", "malformed"),
        (untyped, b"[1" + b"0" * 5000 + b"]", b"{}", "out of range"),
        (untyped, b"[" * 100_000 + b"]" * 100_000, b"{}", "nested"),
        (untyped, b"[" * 40 + b"]" * 40, b"{}", "nested deeper than 32"),
        (untyped, b"[1]", b'{"y":' + b"[" * 40 + b"]" * 40 + b"}", "nested deeper than 32"),
        (two, b'{"x":1}', b"{}", "Expected `array`"),
        (two, b"[1,2]", b"[]", "Expected `object`"),
        (two, b"[1,2", b"{}", "truncated"),
        (untyped, b'["\xff"]', b"{}", ""),
        (untyped, b'["\\ud800"]', b"{}", ""),
    ],
)
def test_bad_arguments(function: Any, args: bytes, kwargs: bytes, says: str) -> None:
    with pytest.raises(BadArguments) as caught:
        decode(function, args, kwargs)
    assert says in str(caught.value)


def test_brackets_inside_text_do_not_nest() -> None:
    text = b'["' + b"[" * 1000 + b'"]'
    check_depth(text, 2)
    with pytest.raises(BadArguments):
        check_depth(b"[" * 3 + b"]" * 3, 2)


def test_a_type_that_json_cannot_carry_is_refused_at_the_start() -> None:
    def bad(x: NotJson) -> None: ...

    with pytest.raises(InvalidTask, match="'bad', argument 'x'"):
        Arguments(bad, "bad")


def test_an_annotation_with_a_name_that_only_a_type_checker_sees_is_refused() -> None:
    @dataclasses.dataclass
    class Part:
        whole: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    def bad(x: Part) -> None: ...

    with pytest.raises(InvalidTask, match="'bad', argument 'x': name 'Nowhere' is not defined"):
        Arguments(bad, "bad")


def test_an_annotation_that_means_nothing_is_as_good_as_none() -> None:
    def described(count: "the count") -> "the count and more": ...  # type: ignore[valid-type] # noqa: F722

    assert decode(described, b'["x"]') == (("x",), {})
    assert task(registry={})(described).result_type is Any


def test_what_does_not_say_what_it_takes_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidTask, match=r"task function .f.: no signature found.*write a function around it"):
        Arguments(max, "f")


def test_the_caller_cannot_make_decoders_pile_up() -> None:
    arguments = Arguments(many, "many")
    for count in range(1, 300):
        args = Raw(b'["a"' + b",1" * count + b"]")
        assert len(arguments.decode(args, EMPTY, 32)[0]) == count + 1
    assert len(arguments._by_count) <= 65


def test_the_usual_call_is_quick() -> None:
    arguments = Arguments(two, "two")
    args = Raw(b"[1,2]")
    best = 1.0
    for _ in range(5):
        started = time.process_time()
        for _ in range(2000):
            arguments.decode(args, EMPTY, 32)
        best = min(best, (time.process_time() - started) / 2000)
    assert best < 4e-6, f"{best * 1e6:.2f} us"  # the budget is 2 us; twice that for a busy machine

"""What a task function returns or raises, as bounded JSON and text."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pytest

from common.wire import Assignment, ErrorKind, OutcomeKind
from worker_service.checks import result_check
from worker_service.results import MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES, Limits, failed, safe, succeeded

LIMITS = Limits(1000, 32)
WORK = Assignment("id", "task", "lease", 3)


def deep(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (None, b"null"),
        (5, b"5"),
        ({"a": None, "b": 1.5}, b'{"a":null,"b":1.5}'),
        ("null", b'"null"'),
        ([None, {1, 2}], b"[null,[1,2]]"),
        ({1: "x", "null": None}, b'{"1":"x","null":null}'),
        (msgspec.Raw(b"null"), b"null"),
        ([msgspec.Raw(b"[1,null]"), None], b"[[1,null],null]"),
    ],
)
def test_results_that_are_json(value: Any, raw: bytes) -> None:
    outcome = succeeded(WORK, value, 0.5, LIMITS)
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome.error
    assert bytes(outcome.result) == raw
    assert (outcome.id, outcome.lease, outcome.attempt, outcome.run_seconds) == ("id", "lease", 3, 0.5)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "not JSON"),
        (math.nan, "not JSON"),
        ([1.0, {"x": -math.inf}], "not JSON"),
        ("\ud800", "not JSON"),
        ({(1, 2): 3}, "not JSON"),
        ("x" * 999, "more than 1000"),
        (deep(33), "nested deeper than 32"),
        (deep(1_000_000), "nested too deep"),  # 100,000 levels are too few for Python 3.14
        (cycle(), "contains itself"),
        (msgspec.Raw(b"{nope"), "not JSON"),
        ({"a": msgspec.Raw(b"}}")}, "not JSON"),
        (msgspec.Raw(b""), "not JSON"),
        ([msgspec.Raw(b'"\xff"')], "not JSON"),
    ],
)
def test_results_that_cannot_be_sent(value: Any, says: str) -> None:
    outcome = succeeded(WORK, value, 0.5, LIMITS)
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.BAD_RESULT
    assert says in outcome.error.message


class Size(msgspec.Struct):
    width: int


class Box(msgspec.Struct):
    sizes: list[Size]


@dataclass
class Unresolved:
    """As a type checker sees it, which reads imports that never happen."""

    part: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Shape(str):
    """A type that JSON knows nothing of."""


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        (int, "two", "Expected `int`, got `str`"),
        (None, 5, "Expected `null`, got `int`"),
        (Box, {"sizes": [{"width": 1}, {"width": "two"}]}, "at `$.sizes[1].width`"),
        (Annotated[int, msgspec.Meta(gt=0)], -1, "Expected `int` >= 1"),
    ],
)
def test_a_result_that_is_not_what_the_annotation_says_is_a_failure(annotation: Any, value: Any, says: str) -> None:
    outcome = succeeded(WORK, value, 0.5, LIMITS, result_check(annotation))
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.error is not None
    assert (outcome.error.kind, outcome.error.type) == (ErrorKind.BAD_RESULT, "BadResult")
    assert says in outcome.error.message
    assert outcome.advice is None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Box, Box([Size(1)])),
        (datetime, datetime(2026, 1, 1, tzinfo=UTC)),
        (dict[int, str], {1: "one"}),
        (float, 5),
        (Any, {"any": "thing"}),
        (list[Shape], ["round"]),
        (Size | Box, {"neither": 1}),
        (Unresolved, {"part": 1}),
    ],
)
def test_a_result_that_fits_or_cannot_be_held_against_its_annotation_is_one(annotation: Any, value: Any) -> None:
    outcome = succeeded(WORK, value, 0.5, LIMITS, result_check(annotation))
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome.error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_becomes_text() -> None:
    try:
        raise KeyError("missing")
    except KeyError as error:
        outcome = failed(WORK, ErrorKind.EXCEPTION, error, 0.1)
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("KeyError", "'missing'")


def test_an_exception_without_text_is_a_failure_like_any_other() -> None:
    outcome = failed(WORK, ErrorKind.EXCEPTION, Unprintable(), 0.1)
    assert outcome.error is not None
    assert outcome.error.type == "Unprintable"


def test_an_exception_whose_text_tries_to_exit_is_one_too() -> None:
    class Leaving(Exception):
        def __str__(self) -> str:
            raise SystemExit

    outcome = failed(WORK, ErrorKind.EXCEPTION, Leaving(), 0.1)
    assert outcome.error is not None
    assert outcome.error.type.endswith("Leaving")


@pytest.mark.parametrize("text", ["x" * 1_000_000, "é" * 100_000, "\ud800" * 50_000, "\x00" * 20_000])
def test_texts_are_bounded_and_safe(text: str) -> None:
    for limit in (MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES):
        made = safe(text, limit)
        assert len(made.encode()) <= limit  # which also says that it is valid UTF-8
        assert "\x00" not in made


def test_short_texts_stay_as_they_are() -> None:
    assert safe("naïve\n\ttext", 100) == "naïve\n\ttext"

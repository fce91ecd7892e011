"""What a handle gives: the result in its type, or the error."""

from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
import pytest

from common.client.handles import UNKNOWN, BaseHandle
from common.errors import TaskCancelled, TaskExpired, TaskFailed, UnknownTask, WireError
from common.wire import ErrorInfo, ErrorKind, TaskResult


@dataclass
class Point:
    x: int
    day: date


@dataclass
class Unresolved:
    """As a type checker sees it, which reads imports that never happen."""

    part: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Opaque:
    """JSON says nothing about it."""


def outcome(result_type: Any, raw: bytes) -> Any:
    handle = BaseHandle[Any]("id", result_type, foreign=False)
    handle._resolve(TaskResult("id", "succeeded", msgspec.Raw(raw)))
    return handle._value()


@pytest.mark.parametrize(
    ("result_type", "raw", "value"),
    [
        (Any, b'{"x": [1, null]}', {"x": [1, None]}),
        (int, b"5", 5),
        (float, b"5", 5.0),
        (None, b"null", None),
        (type(None), b"null", None),
        (Point, b'{"x": 1, "day": "2026-01-02"}', Point(1, date(2026, 1, 2))),
        (list[Point] | None, b'[{"x": 1, "day": "2026-01-02"}]', [Point(1, date(2026, 1, 2))]),
        (set[int], b"[1, 2]", {1, 2}),
    ],
)
def test_results_come_in_the_annotated_type(result_type: Any, raw: bytes, value: Any) -> None:
    got = outcome(result_type, raw)
    assert got == value
    assert type(got) is type(value)


def test_an_annotation_that_json_cannot_be_converted_to_gives_plain_json() -> None:
    assert outcome(Opaque, b"[1]") == [1]
    assert outcome(5, b"[1]") == [1]
    assert outcome(list[Unresolved], b"[1]") == [1]


def test_a_result_that_does_not_fit_its_annotation_is_an_error() -> None:
    with pytest.raises(WireError, match="does not fit the annotation"):
        outcome(int, b'"text"')


def test_outcomes_other_than_success_raise_a_new_error_each_time() -> None:
    for state, kind in (("cancelled", TaskCancelled), ("expired", TaskExpired), (UNKNOWN, UnknownTask)):
        handle = BaseHandle[Any]("id", Any, foreign=False)
        handle._resolve(TaskResult("id", state))
        errors = []
        for _ in range(2):
            with pytest.raises(kind) as caught:
                handle._value()
            errors.append(caught.value)
        assert errors[0] is not errors[1]
        assert errors[0].task_id == "id"


def test_a_failure_holds_the_remote_error_as_text() -> None:
    handle = BaseHandle[Any]("id", Any, foreign=False)
    error = ErrorInfo(ErrorKind.CRASHED, "os.system", "boom", "Traceback\n  line")
    handle._resolve(TaskResult("id", "failed", error=error))
    with pytest.raises(TaskFailed) as caught:
        handle._value()

    got = caught.value
    assert (got.kind, got.type, got.message, got.traceback) == ("crashed", "os.system", "boom", "Traceback\n  line")


def test_a_handle_shows_its_id_and_nothing_of_the_result() -> None:
    handle = BaseHandle[Any]("the-id", Any, foreign=False)
    assert repr(handle) == "<task the-id waiting>"
    handle._resolve(TaskResult("the-id", "succeeded", msgspec.Raw(b'"secret"')))
    assert repr(handle) == "<task the-id succeeded>"

"""Options as people say them."""

from datetime import UTC, datetime, timedelta
from json import JSONDecodeError
from typing import Any

import pytest

from common.errors import InvalidTask
from common.options import Backoff, BackoffKind, TaskOptions
from common.words import EQUAL, NOT_UNIQUE, merged, task_options


def test_spans_moments_and_types_become_those_of_the_wire() -> None:
    said = task_options(
        {
            "delay": timedelta(minutes=5),
            "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
            "timeout": 30,
            "backoff": "linear",
            "retry_on": (OSError, JSONDecodeError, "app.Busy"),
            "give_up_on": ValueError,
            "labels": {"tenant": "anna"},
            "unique": True,
            "key": None,
        }
    )

    assert said == TaskOptions(
        delay=300.0,
        expires_at=1893456000.0,
        timeout=30.0,
        backoff=Backoff(BackoffKind.LINEAR),
        retry_on=("OSError", "json.decoder.JSONDecodeError", "app.Busy"),
        give_up_on=("ValueError",),
        labels={"tenant": "anna"},
        unique=EQUAL,
    )


def test_nothing_said_is_no_options() -> None:
    assert task_options({}) is task_options({"delay": None, "unique": None}) is None
    assert task_options({"unique": False}) == TaskOptions(unique=NOT_UNIQUE)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"retries": -1}, "^retries: expected `int` >= 0$"),
        ({"retries": 1.5}, "^retries: expected `int"),
        ({"delay": -1}, "^delay: expected `float` >= 0"),
        ({"delay": float("nan")}, "^delay: "),
        ({"delay": 1e12}, "^delay: "),
        ({"delay": "5m"}, "delay is a number of seconds or a timedelta, not '5m'"),
        ({"timeout": 0}, "^timeout: expected `float` > 0"),
        ({"run_at": datetime(2030, 1, 1)}, "without a time zone"),  # noqa: DTZ001
        ({"run_at": "now"}, "run_at is a datetime or seconds"),
        ({"delay": 1, "run_at": 2.0}, "say either delay or run_at"),
        ({"expires_in": 1, "expires_at": 2.0}, "say either expires_in or expires_at"),
        ({"backoff": "cubic"}, "backoff.kind: invalid enum value 'cubic'"),
        ({"backoff": Backoff(base=-1)}, "backoff.base"),
        ({"retry_on": 5}, "retry_on takes exception types"),
        ({"retry_on": [int]}, "retry_on takes exception types"),
        ({"labels": {"a b": "x"}}, "a label's name"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": {str(number): "" for number in range(17)}}, "labels: expected `object` of length <= 16"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_window": 5}, "nothing without idempotency_key"),
        ({"slots": 1}, "no option 'slots'; there are queue, priority, task_id, delay"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_name(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTask, match=reason):
        task_options(words)


def test_the_later_word_counts_and_silences_its_rival() -> None:
    under = TaskOptions(delay=5, retries=1, expires_in=60, labels={"a": "1", "b": "1"})
    over = TaskOptions(run_at=7.0, retries=0, labels={"b": "2"})

    assert merged(over, under) == TaskOptions(run_at=7.0, retries=0, expires_in=60, labels={"a": "1", "b": "2"})
    assert merged(over, None) is over
    assert merged(None, under) is under

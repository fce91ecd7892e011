"""Options as people say them, with `timedelta`, `datetime` and exception types, made into those of the wire.

Example:
    >>> said = task_options({"delay": timedelta(minutes=5), "retry_on": (OSError, "HTTPError")})
    >>> said.delay, said.retry_on
    (300.0, ('OSError', 'HTTPError'))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, TypedDict

import msgspec
from msgspec.structs import asdict

from common.errors import InvalidTask
from common.options import Backoff, TaskOptions

Seconds: TypeAlias = float | timedelta
When: TypeAlias = float | datetime
"""Seconds since the epoch, or a `datetime` with a time zone."""
Raised: TypeAlias = type[BaseException] | str
"""An exception type, or its name with or without its module."""

_FAR_OFF: Final = 1e12
"""Seconds; no point in time is further from the epoch."""

EQUAL: Final = "="
"""What `unique=True` stands for until the arguments are known: the same function with the same arguments."""

NOT_UNIQUE: Final = "\0"
"""What ``unique=False`` stands for until it has overruled the decorator; never sent."""


class Words(TypedDict, total=False):
    """The words that `options` takes beside queue, priority and id; `common.options` says what each means.

    None stands for a word that was not said.
    """

    delay: Seconds | None
    run_at: When | None
    expires_in: Seconds | None
    expires_at: When | None
    timeout: Seconds | None
    hard_timeout: Seconds | None
    retries: int | None
    backoff: Backoff | str | None
    """A `Backoff`, or the name of its kind: ``constant``, ``linear`` or ``exponential``."""
    retry_on: Raised | Iterable[Raised] | None
    give_up_on: Raised | Iterable[Raised] | None
    max_crashes: int | None
    memory_limit: int | None
    result_ttl: Seconds | None
    idempotency_key: str | None
    idempotency_window: Seconds | None
    unique: str | bool | None
    """A name, True for the function's name together with its arguments, or False whatever the decorator says."""
    key: str | None
    requires: str | Iterable[str] | None
    """A label, or several, that a worker has to have."""
    labels: Mapping[str, str] | None
    parent: str | None
    replay_of: str | None


_WORDS: Final = tuple(Words.__annotations__)
_RAISED: Final = ("retry_on", "give_up_on")
_RIVALS: Final = {
    "delay": "run_at",
    "run_at": "delay",
    "expires_in": "expires_at",
    "expires_at": "expires_in",
}
"""Two words about one thing: only one of them can count."""


def task_options(words: Mapping[str, Any]) -> TaskOptions | None:
    """The options that `words` stand for; None when nothing was said.

    Args:
        words: as in `Words`.

    Raises:
        InvalidTask: an unknown word, a value of a wrong form or out of its range, or two words about one thing.
    """
    plain = {name: _plain(name, value) for name, value in words.items() if value is not None}
    said = {name: value for name, value in plain.items() if value is not None}
    if not said:
        return None
    for name in said:
        if _RIVALS.get(name) in said:
            raise InvalidTask(f"say either {name} or {_RIVALS[name]}, not both")
    if "idempotency_window" in said and "idempotency_key" not in said:
        raise InvalidTask("idempotency_window says nothing without idempotency_key")
    try:
        return msgspec.convert(said, TaskOptions)
    except msgspec.ValidationError as error:
        raise InvalidTask(_readable(str(error))) from None


def merged(over: TaskOptions | None, under: TaskOptions | None) -> TaskOptions | None:
    """Both, where the words of `over` count before those of `under`; of two words about one thing, the one in `over`.

    Labels are put together, and so is what is required.
    """
    if over is None or under is None:
        return under if over is None else over
    said = {name: value for name, value in asdict(over).items() if value is not None}
    for name, value in asdict(under).items():
        if name not in said and value is not None and _RIVALS.get(name) not in said:
            said[name] = value
    if over.labels and under.labels:
        said["labels"] = {**under.labels, **over.labels}
    if over.requires and under.requires:
        said["requires"] = requirements((*over.requires, *under.requires))
    if "idempotency_key" not in said:
        said.pop("idempotency_window", None)
    return TaskOptions(**said)


def seconds(name: str, value: Seconds) -> float:
    """A span of time in seconds.

    Raises:
        InvalidTask: it is neither a number nor a `timedelta`.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTask(f"{name} is a number of seconds or a timedelta, not {_short(value)}")
    return float(value)


def moment(name: str, value: When) -> float:
    """A point in time in seconds since the epoch.

    Raises:
        InvalidTask: it is neither a number nor a `datetime`, or the `datetime` does not say its time zone.
    """
    if not isinstance(value, datetime):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidTask(f"{name} is a datetime or seconds since the epoch, not {_short(value)}")
        # JSON cannot say NaN and the infinities: it would be as if nothing had been said.
        if not -_FAR_OFF < value < _FAR_OFF:
            raise InvalidTask(f"{name} is {value!r:.50}, which is no point in time")
        return float(value)
    if value.tzinfo is None:
        raise InvalidTask(f"{name} is {value.isoformat()} without a time zone; write datetime(..., tzinfo=UTC)")
    return value.timestamp()


def type_names(name: str, value: Raised | Iterable[Raised]) -> tuple[str, ...]:
    """The names by which exception types travel: with their module, except for Python's own.

    Raises:
        InvalidTask: something else is among them.
    """
    several = (value,) if isinstance(value, (str, type)) else value
    if not isinstance(several, Iterable):
        raise InvalidTask(f"{name} takes exception types or their names, not {_short(value)}")
    return tuple(_type_name(name, one) for one in several)


def requirements(value: str | Iterable[str]) -> tuple[str, ...]:
    """Required labels as they travel: sorted, each once. `common.options.Requirements` says how many there may be.

    Raises:
        InvalidTask: it is neither a label nor several.
    """
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, Iterable) or isinstance(several, Mapping):
        raise InvalidTask(f"requires takes a label or several, not {_short(value)}")
    labels = list(several)
    for label in labels:
        if not isinstance(label, str):
            raise InvalidTask(f"requires takes labels, not {_short(label)}")
    return tuple(sorted(set(labels)))


def _type_name(name: str, one: Raised) -> str:
    if isinstance(one, str):
        return one
    if not isinstance(one, type) or not issubclass(one, BaseException):
        raise InvalidTask(f"{name} takes exception types or their names, not {_short(one)}")
    return one.__qualname__ if one.__module__ == "builtins" else f"{one.__module__}.{one.__qualname__}"


_SPANS: Final = frozenset({"delay", "expires_in", "timeout", "hard_timeout", "result_ttl", "idempotency_window"})
_MOMENTS: Final = frozenset({"run_at", "expires_at"})


def _plain(name: str, value: Any) -> Any:
    if name in _SPANS:
        return seconds(name, value)
    if name in _MOMENTS:
        return moment(name, value)
    if name in _RAISED:
        return type_names(name, value)
    if name == "backoff":
        return msgspec.to_builtins(value) if isinstance(value, Backoff) else {"kind": value}
    if name == "requires":
        return requirements(value) or None
    if name == "labels":
        return dict(value) if isinstance(value, Mapping) else value
    if name == "unique" and isinstance(value, bool):
        return EQUAL if value else NOT_UNIQUE
    if name not in _WORDS:
        raise InvalidTask(f"there is no option {name!r}; there are queue, priority, task_id, {', '.join(_WORDS)}")
    return value


def _readable(fault: str) -> str:
    """``Expected `int` >= 0 - at `$.retries` `` as ``retries: expected `int` >= 0``."""
    what, _, path = fault.rpartition(" - at `")
    if not what:
        return fault
    where = "a label's name" if path.startswith("key") else path.rstrip("`").removeprefix("$.")
    return f"{where}: {what[0].lower()}{what[1:]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

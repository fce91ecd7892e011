"""What people write on the command line: spans of time, points in time, labels, JSON; and the options that say which.

A span is a number of seconds, or numbers with units: ``90``, ``5m``, ``1h30m``, ``7d``, ``2w``. A point in time is ISO
8601, in this machine's time zone unless it names one: ``2026-12-24T18:00``, ``2026-12-24T18:00:00Z``; or ``@`` and the
seconds since the epoch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import click
import msgspec

from common.states import State

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")

F = TypeVar("F", bound=Callable[..., Any])


class Span(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """Seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = span(str(value))
        if seconds is None:
            self.fail(f"{value!r} is no span of time; write seconds, or 5m, 1h30m, 7d", param, ctx)
        return seconds


class Moment(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """Seconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        at = moment(str(value))
        if at is None:
            self.fail(f"{value!r} is no point in time; write it like 2026-12-24T18:00", param, ctx)
        return at


class Past(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """Seconds since the epoch; a span is that long ago."""

    name = "time or span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        ago = span(str(value))
        return Moment().convert(value, param, ctx) if ago is None else time.time() - ago


class By(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """By when: the word of `options` that says so, and its value."""

    name = "span or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        within = span(str(value))
        return ("expires_at", Moment().convert(value, param, ctx)) if within is None else ("expires_in", within)


def span(text: str) -> float | None:
    """Seconds; None if this is no span of time."""
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _SPAN.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def moment(text: str) -> float | None:
    """Seconds since the epoch; None if this is no point in time."""
    if text.startswith("@") and _NUMBER.fullmatch(text[1:]):
        return float(text[1:])
    try:
        return datetime.fromisoformat(text).timestamp()  # without a zone: that of this machine
    except (ValueError, OverflowError, OSError):
        return None


def labels(texts: Sequence[str]) -> dict[str, str] | None:
    """``name=value`` each; None when there are none."""
    for text in texts:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} has to be NAME=VALUE", param_hint="--label")
    return dict(text.split("=", 1) for text in texts) or None


def json_or_text(text: str) -> Any:
    """What `text` says as JSON, or the text itself."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def json_object(text: str | None) -> dict[str, Any]:
    """What `text` says as a JSON object."""
    if text is None:
        return {}
    value = json_or_text(text)
    if not isinstance(value, dict):
        raise click.BadParameter("has to be a JSON object, such as '{\"x\": 1}'", param_hint="--kwargs")
    return value


def which_options(*, states: bool = True, queue: bool = True) -> Callable[[F], F]:
    """The options that say which tasks are meant; `which` makes them into words for the client."""

    def add(function: F) -> F:
        options = [
            click.option("--task", help="Of this task function."),
            click.option("--queue", help="In this queue."),
            click.option("--key", help="With this fairness key."),
            click.option("--label", "label", multiple=True, metavar="NAME=VALUE", help="With this label; repeatable."),
            click.option("--since", type=Past(), help="Submitted since then, or within so long: 2h, 2026-12-24."),
            click.option("--until", type=Past(), help="Submitted before then, or longer ago."),
        ]
        if not queue:
            del options[1]
        if states:
            kinds = click.Choice([*map(str, State)])
            options.append(click.option("--state", multiple=True, type=kinds, help="In this state; repeatable."))
        for option in reversed(options):
            function = option(function)
        return function

    return add


def which(given: dict[str, Any]) -> dict[str, Any]:
    """The words for the client, out of what `which_options` gave to a command; only what was said."""
    words = {name: given.get(name) for name in ("task", "queue", "key", "since", "until")}
    words["labels"] = labels(given.get("label", ()))
    words["state"] = list(given.get("state", ())) or None
    return {name: value for name, value in words.items() if value is not None}

"""What people write on the command line about quotas, and how they read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from common.client.cli.values import span
from common.errors import InvalidQuota
from common.quotas import Quota, Rate

F = TypeVar("F", bound=Callable[..., Any])

NONE: Final = "none"
"""Takes a limit away."""


class Maybe(click.ParamType):  # type: ignore[type-arg] # generic in newer versions only
    """A value, or ``none`` for no limit.

    Args:
        name: shown in the help.
        read: what a text stands for; raises `ValueError` with a sentence.
    """

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == NONE:
            return (None,)
        try:
            return (self._read(str(value)),)
        except ValueError as error:
            self.fail(f"{error}; or {NONE}", param, ctx)


def rate(text: str) -> str:
    """A rate, as text that the wire takes.

    Raises:
        ValueError: this is none.
    """
    try:
        return str(Rate.parse(text))
    except InvalidQuota as error:
        raise ValueError(str(error)) from None


def count(text: str) -> int:
    """A number of tasks.

    Raises:
        ValueError: this is none.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} is not a number from 1 to 1,000,000")
    return int(text)


def waiting(text: str) -> float:
    """Seconds.

    Raises:
        ValueError: this is none.
    """
    seconds = span(text)
    if not seconds:
        raise ValueError(f"{text!r} is no span of time; write seconds, or 5m, 1h30m, 7d")
    return seconds


def _number(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is no weight; write a number from 0.001 to 1000", context, option)
    return value


def quota_options(function: F) -> F:
    """The options that say what a quota is to be; `said` makes them into words for the client."""
    for option in (
        click.option(
            "--ageing", type=Maybe("span", waiting), help="Waiting that counts as a step of priority: 60, 5m, none."
        ),
        click.option(
            "--concurrency", type=Maybe("number", count), help="How many may be at workers at a time, or none."
        ),
        click.option(
            "--rate", type=Maybe("rate", rate), help="How many may be dispatched: 100/s, 90/m, 3/10s, or none."
        ),
        click.option(
            "--weight", type=click.FloatRange(0.001, 1000), callback=_number, help="Share beside others that have work."
        ),
    ):
        function = option(function)
    return function


def said(given: dict[str, Any]) -> dict[str, Any]:
    """The words for the client, out of what `quota_options` gave to a command; only what was said."""
    words = {name: given[name] for name in ("weight", "paused") if given.get(name) is not None}
    words |= {name: given[name][0] for name in ("rate", "concurrency", "ageing") if given.get(name) is not None}
    if not words:
        raise click.UsageError("say what is to be changed, such as --weight, --rate or --concurrency")
    return words


def described(quota: Quota) -> str:
    """What a quota says, in words."""
    words = [f"weight {quota.weight:g}"]
    words += ["paused"] if quota.paused else []
    words += [f"at most {quota.rate}"] if quota.rate is not None else []
    words += [f"at most {quota.concurrency:,} at a time"] if quota.concurrency is not None else []
    words += [f"a step of priority for {quota.ageing:g} s of waiting"] if quota.ageing is not None else []
    return ", ".join(words)

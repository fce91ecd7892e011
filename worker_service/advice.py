"""What the worker tells the scheduler about trying a failed task again: it knows the decorator, and the exception."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.options import Policy
from common.wire import Advice, ErrorKind

_TRIED_AGAIN: Final = frozenset({ErrorKind.EXCEPTION, ErrorKind.TIMEOUT})
"""The errors that `retries` is for. What is wrong with arguments or with the result's form stays wrong."""


def advise(policy: Policy, kind: ErrorKind, error: type[BaseException], after: float | None = None) -> Advice | None:
    """The advice on a failure; None when nothing is to be tried.

    Args:
        policy: what submission and decorator say, taken together.
        kind: why the task failed.
        error: the type of what was raised.
        after: the wait that the task function asked for.
    """
    if kind is ErrorKind.RETRY:
        return Advice(after=after, retries=policy.retries, backoff=policy.backoff)
    if kind is ErrorKind.CRASHED:
        return None if policy.max_crashes is None else Advice(max_crashes=policy.max_crashes)
    if kind not in _TRIED_AGAIN or not policy.retries:
        return None
    if _among(error, policy.give_up_on) or (policy.retry_on is not None and not _among(error, policy.retry_on)):
        return None
    return Advice(retries=policy.retries, backoff=policy.backoff)


def _among(error: type[BaseException], names: Sequence[str] | None) -> bool:
    """Whether the type, or one that it is derived from, is named, with or without its module."""
    if not names:
        return False
    # What a script calls __main__ has another module's name here.
    wanted = {name.removeprefix("__main__.") for name in names}
    return any(
        each.__qualname__ in wanted or f"{each.__module__}.{each.__qualname__}" in wanted for each in error.__mro__
    )

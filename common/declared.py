"""What a decorator says about the lives of its tasks: the words of `@task(...)`, made into a `Policy` and defaults.

Example:
    >>> policy, defaults = declared({"timeout": 2.5, "retry_on": OSError, "key": "reports"})
    >>> policy.timeout, policy.retry_on, defaults.key
    (2.5, ('OSError',), 'reports')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

from common.errors import InvalidTask
from common.options import NO_POLICY, Backoff, Policy, TaskOptions
from common.words import Raised, Seconds, task_options


class Declared(TypedDict, total=False):
    """The words of ``@task(...)`` beside name, queue, priority, runtime and requires; `common.options` explains them.

    None stands for a word that was not said.
    """

    timeout: Seconds | None
    hard_timeout: Seconds | None
    retries: int | None
    backoff: Backoff | str | None
    """A `Backoff`, or the name of its kind: ``constant``, ``linear`` or ``exponential``."""
    retry_on: Raised | Iterable[Raised] | None
    give_up_on: Raised | Iterable[Raised] | None
    max_crashes: int | None
    memory_limit: int | None
    expires_in: Seconds | None
    result_ttl: Seconds | None
    delay: Seconds | None
    unique: str | bool | None
    key: str | None
    labels: Mapping[str, str] | None


_WORDS: Final = tuple(Declared.__annotations__)
_NOTHING: Final = TaskOptions()
_OF_ONE: Final = ("run_at", "expires_at", "idempotency_key", "idempotency_window", "task_id", "parent", "replay_of")
"""Words that can only be about one submission."""


def declared(words: Mapping[str, Any]) -> tuple[Policy, TaskOptions | None]:
    """What `words` stand for: the policy, and what else holds for each submission of the function object.

    Args:
        words: as in `Declared`.

    Raises:
        InvalidTask: an unknown word, a value of a wrong form or out of its range, a hard timeout that comes before
            the soft one, or an expiry that comes before the delay is over.
    """
    for name in words:
        if name in _OF_ONE:
            raise InvalidTask(f"@task takes no {name!r}, which is about one submission: say it in options(...)")
        if name not in _WORDS:
            known = f"name, queue, priority, runtime, requires, {', '.join(_WORDS)}"
            raise InvalidTask(f"@task takes no {name!r}; it takes {known}")
    options = task_options(words)
    if options is None:
        return NO_POLICY, None
    if options.timeout is not None and options.hard_timeout is not None and options.hard_timeout < options.timeout:
        raise InvalidTask(
            f"hard_timeout ({options.hard_timeout:g} s) comes before timeout ({options.timeout:g} s), which would then "
            f"never count"
        )
    if options.delay is not None and options.expires_in is not None and options.expires_in <= options.delay:
        raise InvalidTask(f"with a delay of {options.delay:g} s and expires_in {options.expires_in:g} s it never runs")
    defaults = TaskOptions(delay=options.delay, unique=options.unique, key=options.key, labels=options.labels)
    policy = Policy(**{name: getattr(options, name) for name in Policy.__struct_fields__})
    return policy, None if defaults == _NOTHING else defaults

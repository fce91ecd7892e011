"""What a decorator says about the lives of its tasks: the words of `@task(...)`, made into a `Policy`.

Example:
    >>> policy = declared({"timeout": 2.5, "retry_on": OSError})
    >>> policy.timeout, policy.retry_on
    (2.5, ('OSError',))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

from common.errors import InvalidTask
from common.options import NO_POLICY, Backoff, Policy
from common.words import Raised, Seconds, task_options


class Declared(TypedDict, total=False):
    """The words of ``@task(...)`` for the policy; `common.options.Policy` explains them.

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


_WORDS: Final = tuple(Declared.__annotations__)


def declared(words: Mapping[str, Any]) -> Policy:
    """The policy that `words` stand for.

    Args:
        words: as in `Declared`.

    Raises:
        InvalidTask: an unknown word, a value of a wrong form or out of its range, or a hard timeout that comes before
            the soft one.
    """
    for name in words:
        if name not in _WORDS:
            known = f"name, queue, priority, runtime, requires, {', '.join(_WORDS)}"
            raise InvalidTask(f"@task takes no {name!r}; it takes {known}")
    options = task_options(words)
    if options is None:
        return NO_POLICY
    if options.timeout is not None and options.hard_timeout is not None and options.hard_timeout < options.timeout:
        raise InvalidTask(
            f"hard_timeout ({options.hard_timeout:g} s) comes before timeout ({options.timeout:g} s), which would then "
            f"never count"
        )
    return Policy(**{name: getattr(options, name) for name in _WORDS})

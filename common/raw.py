"""`msgspec.Raw` in values of users: it is written as it is, right or wrong, so it has to be looked at."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

PLAIN: Final = frozenset({int, float, str, bool, type(None)})
"""The types of values whose JSON is right, since there can be no `Raw` in them."""


def read_raw(value: Any) -> Any:
    """What a `Raw` says: the ``enc_hook`` of `msgspec.to_builtins`, which does not take any.

    Raises:
        TypeError: this is none.
        msgspec.DecodeError: it is not JSON.
    """
    if not isinstance(value, Raw):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    return msgspec.json.decode(value)

"""Results held against the return annotation of their task function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from msgspec.inspect import CustomType, Field, Type, type_info

ResultCheck: TypeAlias = Callable[[bytes], Any]
"""Raises when a result, as JSON, is not what the task function's annotation says."""


def result_check(annotation: Any) -> ResultCheck | None:
    """The check for results of a return annotation; None where JSON cannot be held against it."""
    if annotation is Any:
        return None
    try:
        return None if _has_custom(type_info(annotation), set()) else msgspec.json.Decoder(annotation).decode
    except (TypeError, NameError, AttributeError):
        return None  # no type for JSON, or one with a name in it that only a type checker sees


def _has_custom(part: Any, seen: set[int]) -> bool:
    """Whether a type that JSON knows nothing of is somewhere in `part` of a description of types."""
    if isinstance(part, CustomType):
        return True
    if isinstance(part, tuple):
        return any(_has_custom(each, seen) for each in part)
    if not isinstance(part, (Type, Field)) or id(part) in seen:
        return False
    seen.add(id(part))  # a type may contain itself
    return any(_has_custom(getattr(part, name), seen) for name in part.__struct_fields__)

"""Which tasks a question is about, as people say it, made into the filters of the wire."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypedDict

import msgspec
from msgspec.structs import replace

from common.errors import InvalidFilter, InvalidTask
from common.questions import Filter
from common.states import State
from common.tasks import TaskFunction, check_task_id
from common.wire import MAX_PACK_ITEMS
from common.words import When, moment

Since: TypeAlias = When | timedelta
"""A point in time, or how long ago."""


class Which(TypedDict, total=False):
    """The words that say which tasks: those of yours to which all of this applies. None: not said."""

    state: str | Iterable[str] | None
    """One state or several: ``scheduled``, ``queued``, ``dispatched``, ``succeeded``, ``failed``, ..."""
    task: str | TaskFunction[..., Any] | None
    queue: str | None
    key: str | None
    labels: Mapping[str, str] | None
    """Each of them has to be there with this value."""
    since: Since | None
    """Submitted at this time or later."""
    until: Since | None
    """Submitted before this time."""
    ids: Iterable[str] | None


_WORDS: Final = tuple(Which.__annotations__)
_STATES: Final = tuple(map(str, State))


def filters(words: Mapping[str, Any]) -> list[Filter]:
    """The filters that `words` stand for: one, or one for each thousand ids.

    Args:
        words: as in `Which`.

    Raises:
        InvalidFilter: an unknown word, or a value that no task can have.
    """
    said = {name: value for name, value in words.items() if value is not None}
    for name in said:
        if name not in _WORDS:
            raise InvalidFilter(f"there is no filter {name!r}; there are {', '.join(_WORDS)}")
    ids = _ids(said.pop("ids", None))
    try:
        where = msgspec.convert({name: value for one in said.items() for name, value in _plain(*one).items()}, Filter)
    except msgspec.ValidationError as error:
        raise InvalidFilter(f"tasks cannot be chosen like this: {error}") from None
    if ids is None:
        return [where]
    pages = range(0, len(ids), MAX_PACK_ITEMS)
    return [replace(where, ids=ids[start : start + MAX_PACK_ITEMS]) for start in pages]


def _plain(name: str, value: Any) -> dict[str, Any]:
    if name == "state":
        return {"states": _states([value] if isinstance(value, str) else list(value))}
    if name == "task" and isinstance(value, TaskFunction):
        return {"task": value.name}
    if name == "labels" and isinstance(value, Mapping):
        return {"labels": dict(value) or None}  # no label chooses nothing: whoever cancels has to say more
    if name in ("since", "until"):
        return {name: _moment(name, value)}
    return {name: value}


def _states(states: list[str]) -> list[str]:
    for state in states:
        if state == "running":
            raise InvalidFilter("the store does not know which tasks are running; 'dispatched' ones are given out")
        if state not in _STATES:
            raise InvalidFilter(f"there is no state {state!r}; there are {', '.join(_STATES)}")
    return states


def _moment(name: str, value: Since) -> float:
    if isinstance(value, timedelta):
        return time.time() - value.total_seconds()
    try:
        return moment(name, value)
    except InvalidTask as error:
        raise InvalidFilter(str(error)) from None


def _ids(ids: Iterable[str] | None) -> list[str] | None:
    if ids is None:
        return None
    found = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
    for task_id in found:
        try:
            check_task_id(task_id)
        except InvalidTask as error:
            raise InvalidFilter(str(error)) from None
    return found

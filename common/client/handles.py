"""A task as its submitter holds it: the id, and the outcome once it is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec.inspect import CustomType, type_info

from common.errors import ClientClosed, TaskCancelled, TaskError, TaskExpired, TaskFailed, UnknownTask, WireError
from common.states import TERMINAL, State
from common.wire import TaskResult

R = TypeVar("R")
Watcher = Callable[["BaseHandle[Any]"], None]

UNKNOWN: Final = "unknown"
"""The state, for a handle only, of a task that the scheduler has said twice not to have."""
_TERMINAL: Final = frozenset(map(str, TERMINAL))


class BaseHandle(Generic[R]):
    """What the handles of both clients share. One is made for each task, so it is kept small.

    Attributes:
        id: the task's id.
    """

    __slots__ = (
        "__weakref__",
        "_content",
        "_foreign",
        "_outcome",
        "_result_type",
        "_since",
        "_unknown_at",
        "_unknown_for",
        "_watchers",
        "id",
    )

    def __init__(self, task_id: str, result_type: Any, *, foreign: bool) -> None:
        self.id = task_id
        self._result_type = result_type
        self._foreign = foreign
        self._outcome: TaskResult | None = None
        self._watchers: list[Watcher] | None = None
        self._since = 0.0
        self._unknown_at = math.inf
        self._unknown_for = 0.0
        self._content: int | None = None

    def done(self) -> bool:
        """Whether the outcome is known here. It does not ask anybody; it becomes true by itself."""
        return self._outcome is not None

    def _is_ours(self) -> bool:
        """Whether its submission may still be on its way to the scheduler."""
        return not self._foreign and self._outcome is None

    def __repr__(self) -> str:
        outcome = self._outcome
        return f"<task {self.id} {'waiting' if outcome is None else outcome.state}>"

    def _resolve(self, outcome: TaskResult) -> None:
        """Keep the outcome, and call whoever watches."""
        self._outcome = outcome
        self._wake()

    def _wake(self) -> None:
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher(self)

    def _watch(self, watcher: Watcher) -> None:
        """Call `watcher` once when the outcome comes, or when the client is closed."""
        if self._watchers is None:
            self._watchers = [watcher]
        else:
            self._watchers.append(watcher)

    def _unwatch(self, watcher: Watcher) -> None:
        if self._watchers is not None and watcher in self._watchers:
            self._watchers.remove(watcher)

    def _follow(self, other: BaseHandle[Any]) -> None:
        """Get the outcome from the handle that is waited for under the same id."""

        def take(_: BaseHandle[Any]) -> None:
            if other._outcome is None:
                self._wake()
            else:
                self._resolve(other._outcome)

        other._watch(take)

    def _check_open(self) -> None:
        """Raise `ClientClosed` if a wait for the outcome ended without one."""
        if self._outcome is None:
            raise ClientClosed(f"the client was closed while task {self.id} was awaited; the task goes on")

    def _value(self) -> R:
        """The result, once the outcome is there.

        Raises:
            TaskFailed, TaskCancelled, TaskExpired, UnknownTask: the outcome is no result.
            WireError: the result does not fit the return annotation of the task function.
        """
        outcome = self._outcome
        assert outcome is not None
        if outcome.state == State.SUCCEEDED:
            return self._decoded(outcome)
        raise task_error(outcome)

    def _decoded(self, outcome: TaskResult) -> R:
        try:
            value: R = _decoder(self._result_type).decode(outcome.result)
        except msgspec.ValidationError as error:
            raise WireError(
                f"the result of task {self.id} does not fit the annotation {self._result_type!r}: {error}; "
                f"submit it by name to get it as plain JSON"
            ) from None
        return value


def is_terminal(state: str) -> bool:
    """Whether a task in this state is finished for good."""
    return state in _TERMINAL


def unknown_task(task_id: str) -> UnknownTask:
    """The exception for a task that the scheduler does not have."""
    return UnknownTask(
        f"the scheduler has no task {task_id}: it was never submitted, or removed after its retention", task_id
    )


def task_error(outcome: TaskResult) -> TaskError:
    """The exception for an outcome other than `succeeded`."""
    if outcome.state == UNKNOWN:
        return unknown_task(outcome.id)
    if outcome.state == State.CANCELLED:
        return TaskCancelled(f"task {outcome.id} was cancelled", outcome.id)
    if outcome.state == State.EXPIRED:
        return TaskExpired(f"task {outcome.id} was not started in time", outcome.id)
    error = outcome.error
    if error is None:
        return TaskFailed(outcome.id, "exception", "Exception", "no reason was given", "")
    return TaskFailed(outcome.id, error.kind, error.type, error.message, error.traceback)


@functools.lru_cache(maxsize=1024)
def _typed_decoder(result_type: Any) -> msgspec.json.Decoder[Any]:
    try:
        decoder = msgspec.json.Decoder(result_type)
    except (TypeError, NameError, AttributeError):
        # An annotation that JSON cannot be converted to, or with a name that only a type checker sees.
        return _PLAIN
    return _PLAIN if isinstance(type_info(result_type), CustomType) else decoder


_PLAIN: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()


def _decoder(result_type: Any) -> msgspec.json.Decoder[Any]:
    if result_type is Any:
        return _PLAIN
    try:
        return _typed_decoder(result_type)
    except TypeError:
        return _PLAIN  # an annotation that cannot be hashed

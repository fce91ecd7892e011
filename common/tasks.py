"""Task functions: what a worker can run and a client can name.

A function becomes a task function by `task`, which registers it under a name. Only registered functions ever run; a
message carries a name and never makes a process import anything.

Example:
    >>> registry: dict[str, TaskFunction[..., object]] = {}
    >>> @task(name="docs.add", registry=registry)
    ... def add(x: int, y: int) -> int:
    ...     return x + y
    >>> add(2, 3), add.name, sorted(registry)
    (5, 'docs.add', ['docs.add'])
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Generic, ParamSpec, TypeVar, Unpack, overload

from common.declared import Declared, declared
from common.errors import InvalidTask
from common.ids import TASK_ID
from common.options import NO_POLICY, Policy, TaskOptions
from common.wire import DEFAULT_PRIORITY, DEFAULT_QUEUE
from common.words import Words, merged, task_options

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MAX_NAME: Final = 128
MAX_QUEUE: Final = 64

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]*")
_QUEUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NO_KWARGS: Final[Mapping[str, Any]] = MappingProxyType({})


class Runtime(StrEnum):
    """Where a worker runs a task function."""

    COROUTINE = "coroutine"
    """In the worker's event loop for tasks: an ``async def`` function."""
    THREAD = "thread"
    """In a thread: a plain function."""
    PROCESS = "process"
    """In one of the worker's processes, which can be killed: any function."""


class TaskFunction(Generic[P, R]):
    """A registered function; calling it runs the plain function here and now.

    Attributes:
        name: what messages call it.
        function: the plain function.
        queue: where its tasks go when a submission does not say.
        priority: 0 (last) to 9 (first), when a submission does not say.
        runtime: where a worker runs it.
        policy: how its tasks may end, when a submission does not say.
        requires: labels that a worker has to have to run it, sorted.
        defaults: what else holds for each submission that does not say.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        queue: str,
        priority: int,
        runtime: Runtime | str | None = None,
        policy: Policy = NO_POLICY,
        requires: Iterable[str] | str = (),
        defaults: TaskOptions | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = name
        self.function = function
        self.queue = queue
        self.priority = priority
        self.runtime = _runtime(function, runtime)
        self.policy = policy
        self.requires = _requires(requires)
        self.defaults = defaults

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task function {self.name!r}>"

    @functools.cached_property
    def result_type(self) -> Any:
        """The annotation of what the function returns; `Any` when there is none or it cannot be resolved here."""
        annotation = resolved_hints(self.function).get("return", Any)
        return Any if isinstance(annotation, TypeVar) else annotation


def resolved_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of `function`; none when one of them has no meaning in the running program.

    It may be a name that only a type checker sees, or any text: reading an annotation is running the user's code.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - the boundary: the user's own code
        return {}


Registry = dict[str, TaskFunction[..., Any]]

registry: Final[Registry] = {}
"""The functions that `task` has registered in this process, by name."""


@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...


@overload
def task(
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    runtime: Runtime | str | None = None,
    requires: Iterable[str] | str = (),
    registry: Registry = registry,
    **policy: Unpack[Declared],
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...


def task(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    runtime: Runtime | str | None = None,
    requires: Iterable[str] | str = (),
    registry: Registry = registry,
    **policy: Unpack[Declared],
) -> TaskFunction[P, R] | Callable[[Callable[P, R]], TaskFunction[P, R]]:
    """Make a function a task function and register it. Use it bare or with arguments.

    Args:
        name: what messages call it; by default the function's ``__name__``. At most 128 of ``A-Za-z0-9_.:-``.
        queue: where its tasks go when a submission does not say.
        priority: 0 to 9, when a submission does not say.
        runtime: ``"process"`` for a process that can be killed; by default a coroutine function runs in the worker's
            event loop for tasks, and any other in a thread.
        requires: labels that a worker has to have to run it, such as ``{"gpu"}``; at most 8. Only workers that were
            started with them (``warren worker --labels gpu``) are sent its tasks.
        registry: where to register it; the process's own by default.
        policy: how its tasks may end, when a submission does not say: `timeout` and `hard_timeout` (seconds or
            `timedelta`), `retries`, `backoff`, `retry_on` and `give_up_on` (exception types or their names),
            `max_crashes`, `memory_limit` (bytes), `expires_in`, `result_ttl`. See `common.options.Policy`. Besides:
            `delay`, `unique`, `key` and `labels`, see `common.options.TaskOptions`.

    `expires_in`, `result_ttl`, `max_crashes`, `delay`, `unique`, `key`, `labels`, queue and priority are for the
    scheduler: they travel with a task that is submitted by its function object, not with one that is submitted by
    name. The rest counts in either case, as it is the worker that knows it.

    Raises:
        InvalidTask: a wrong name, queue, priority, runtime, label or policy, the name belongs to another function, or
            it is a generator.
    """
    said, defaults = declared(policy)

    def register(function: Callable[P, R]) -> TaskFunction[P, R]:
        called = str(name or getattr(function, "__name__", ""))
        made = TaskFunction(
            function,
            name=called,
            queue=queue,
            priority=priority,
            runtime=runtime,
            policy=said,
            requires=requires,
            defaults=defaults,
        )
        check_target(made.name, made.queue, made.priority)
        other = registry.get(made.name)
        if other is not None and not _same_source(other.function, function):
            raise InvalidTask(
                f"two functions are named {made.name!r}: {_place(other.function)} and {_place(function)}; "
                f"give one of them another name, @task(name=...)"
            )
        registry[made.name] = made
        return made

    return register if function is None else register(function)


class Call(Generic[R]):
    """One call to be submitted: a task's name, its arguments and its options. Make it with `call`.

    Attributes:
        extra: what was said besides queue, priority and id.
    """

    __slots__ = ("args", "extra", "kwargs", "priority", "queue", "task", "task_id")

    def __init__(
        self,
        task: TaskFunction[..., Any] | str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = _NO_KWARGS,
        *,
        queue: str | None = None,
        priority: int | None = None,
        task_id: str | None = None,
        extra: TaskOptions | None = None,
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs
        self.queue = queue
        self.priority = priority
        self.task_id = task_id
        self.extra = extra

    @property
    def name(self) -> str:
        """The task function's name."""
        return self.task if isinstance(self.task, str) else self.task.name

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        task_id: str | None = None,
        **words: Unpack[Words],
    ) -> Call[R]:
        """The same call with these options; None leaves one as it is.

        Args:
            queue: where it goes.
            priority: 0 to 9.
            task_id: a UUID in lower case.
            words: any of `common.options.TaskOptions`. Spans (`delay`, `timeout`, ...) are seconds or a `timedelta`,
                points in time (`run_at`, `expires_at`) a `datetime` with a time zone or seconds since the epoch.

        Raises:
            InvalidTask: an unknown option, a value of a wrong form or out of its range, a `datetime` without a zone.

        Example:
            >>> from datetime import timedelta
            >>> call("add", 1, 2).options(delay=timedelta(minutes=1)).extra.delay
            60.0
        """
        return Call(
            self.task,
            self.args,
            self.kwargs,
            queue=self.queue if queue is None else queue,
            priority=self.priority if priority is None else priority,
            task_id=self.task_id if task_id is None else task_id,
            extra=merged(task_options(words), self.extra) if words else self.extra,
        )

    def __repr__(self) -> str:
        # Arguments may be secret: they are never shown.
        return f"<call of {self.name!r}>"


@overload
def call(task: TaskFunction[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Call[T]: ...


@overload
def call(task: TaskFunction[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Call[T]: ...


@overload
def call(task: str, /, *args: Any, **kwargs: Any) -> Call[Any]: ...


def call(task: TaskFunction[..., Any] | str, /, *args: Any, **kwargs: Any) -> Call[Any]:
    """A call for `submit_many`.

    Args:
        task: a task function or its name.
        args: its arguments.
        kwargs: its keyword arguments.

    Example:
        >>> call("add", 1, 2).options(queue="math").queue
        'math'
    """
    return Call(task, args, kwargs)


@functools.lru_cache(maxsize=1024, typed=True)
def check_target(name: str, queue: str, priority: int) -> None:
    """Refuse what no message may say.

    Raises:
        InvalidTask: with what is wrong and what is expected.
    """
    if not isinstance(name, str) or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise InvalidTask(
            f"{_short(name)} cannot be a task name: 1 to {MAX_NAME} of A-Za-z0-9_.:- with a letter or _ first"
        )
    if not isinstance(queue, str) or len(queue) > MAX_QUEUE or not _QUEUE.fullmatch(queue):
        raise InvalidTask(
            f"{_short(queue)} cannot be a queue name: 1 to {MAX_QUEUE} of A-Za-z0-9_.- with a letter or digit first"
        )
    if type(priority) is not int or not 0 <= priority <= 9:
        raise InvalidTask(f"{_short(priority)} cannot be a priority: an integer from 0 (last) to 9 (first)")


def check_task_id(task_id: str) -> None:
    """Refuse a task id of another form than a lower-case UUID.

    Raises:
        InvalidTask: it has another form.
    """
    if type(task_id) is not str or not TASK_ID.fullmatch(task_id):
        raise InvalidTask(
            f"{_short(task_id)} cannot be a task id: a plain string, a UUID in lower case with its hyphens"
        )


def is_coroutine(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await."""
    called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _runtime(function: Callable[..., Any], wanted: Runtime | str | None) -> Runtime:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"{_place(function)} is a generator; a task function has to return its result")
    own = Runtime.COROUTINE if is_coroutine(function) else Runtime.THREAD
    if wanted not in (None, own, Runtime.PROCESS):
        raise InvalidTask(
            f"{_place(function)} cannot have the runtime {_short(wanted)}: 'process', or nothing for {own.value!r}"
        )
    return Runtime.PROCESS if wanted == Runtime.PROCESS else own


def _requires(wanted: Iterable[str] | str) -> tuple[str, ...]:
    options = task_options({"requires": wanted})
    return () if options is None else options.requires or ()


def _same_source(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether both are one definition, imported twice: a reload, or a script that is also imported as a module."""
    if getattr(one, "__qualname__", None) != getattr(other, "__qualname__", ""):
        return False
    return one.__module__ == other.__module__ or _file(one) == _file(other) != ""


def _file(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return str(code.co_filename) if code is not None else ""


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', function)}"

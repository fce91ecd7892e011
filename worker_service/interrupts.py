"""Raising `TaskTimeout` in a task function that runs, once, and never in the code around it.

Each way has the same problem: the moment at which it is raised is not chosen by the one in which it is raised, so it
may come when the function is over, and would then hit our own code or the next task. So there is one permit for each
run. Who raises has to take it first, and so has the run when its function is over: who comes second knows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import threading
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from common.errors import TaskTimeout

T = TypeVar("T")

_STEPS: Final = 1000
"""Backward jumps of Python code, at each of which a pending exception is raised."""


class TimedOut(asyncio.CancelledError, TaskTimeout):
    """`TaskTimeout` in a coroutine function.

    It comes at an await, so it may come inside of asyncio's own locks and task groups, which clean up after a
    `CancelledError` and after nothing else.
    """


# It goes by the name of the one that users know, in errors and tracebacks: a timeout is one in each runtime.
for _attribute in ("__name__", "__qualname__", "__module__"):
    setattr(TimedOut, _attribute, getattr(TaskTimeout, _attribute))


class CoroutineInterrupt:
    """For a coroutine: cancels its task, and turns the cancellation into `TimedOut` on its way in.

    Everything here happens in the thread of the event loop.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = False

    def raise_in(self, task: asyncio.Task[Any]) -> None:
        """Raise `TimedOut` where the task function awaits."""
        if not self.pending:
            self.pending = True
            task.cancel()

    @types.coroutine
    def run(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await `coroutine`."""
        step: Callable[[Any], Any] = coroutine.send
        value: Any = None
        while True:
            try:
                awaited = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            try:
                value = yield awaited
                step = coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - passed on
                value = self._translated(error)
                step = coroutine.throw

    def _translated(self, error: BaseException) -> BaseException:
        task = asyncio.current_task()
        if not self.pending or task is None or not isinstance(error, asyncio.CancelledError):
            return error
        self.pending = False
        task.uncancel()  # the function may catch it and go on
        return TimedOut()


class ThreadInterrupt:
    """For a plain function in a thread (PyThreadState_SetAsyncExc)."""

    __slots__ = ("_ident", "_lock", "_permit", "_raised", "_too_early")

    def __init__(self) -> None:
        self._permit = deque((True,))  # deque.pop is atomic
        self._lock = threading.Lock()
        self._ident = 0
        self._too_early = False
        self._raised = threading.Event()

    def call(self, function: Callable[..., T], args: Sequence[Any], kwargs: Mapping[str, Any]) -> T:
        """Call `function` in this thread.

        Raises:
            TaskTimeout: from `raise_in`, unless the function has caught it.
        """
        with self._lock:
            self._ident = threading.get_ident()
        try:
            if self._too_early:
                raise TaskTimeout
            return function(*args, **kwargs)
        finally:
            self._close()

    def raise_in(self) -> None:
        """Raise `TaskTimeout` in the function, unless it is over or this was done before. May be called anywhere."""
        with self._lock:
            if not self._ident:
                self._too_early = True
                return
        try:
            self._permit.pop()
        except IndexError:
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._ident), ctypes.py_object(TaskTimeout))
        self._raised.set()

    def _close(self) -> None:
        try:
            self._permit.pop()
        except IndexError:
            # It has been raised, or is about to be: here at the latest, and not in what comes after.
            self._raised.wait()
            for _ in range(_STEPS):
                pass


class SignalInterrupt:
    """For a plain function in the main thread of a process of its own (SIGALRM): it ends blocking calls too.

    Args:
        seconds: from `call` to the exception.
    """

    __slots__ = ("_held", "_late", "_open", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open = False
        self._held = False
        self._late = False

    def call(self, function: Callable[..., T], args: Sequence[Any], kwargs: Mapping[str, Any]) -> T:
        """Call `function`.

        Raises:
            TaskTimeout: after `seconds`, unless the function has caught it.
        """
        before = signal.signal(signal.SIGALRM, self._alarm)
        self._open = True
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
        try:
            return function(*args, **kwargs)
        finally:
            # A signal's handler runs between two steps: it has raised before this one, or never does.
            self._open = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise nothing inside, but at its end: for what must be done as a whole. Not to be nested.

        Raises:
            TaskTimeout: it came meanwhile.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # it is raised in the main thread only
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._late:
            self._late = self._open = False
            raise TaskTimeout

    def _alarm(self, number: int, frame: object) -> None:
        if self._open and self._held:
            self._late = True
        elif self._open:
            self._open = False
            raise TaskTimeout

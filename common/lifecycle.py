"""How a service lives: start, run, drain, stop.

::

    start parts ──> running ──SIGTERM──> drain parts ──> stop parts ──> exit 0
                      │                    │ second signal, or the drain's time is over ──> stop parts ──> exit 3
                      ├ it is worn out ──> drain parts ──> stop parts ──> exit 4
                      └ a part crashed ────────────────────────────────────────────────> stop parts ──> exit 1

Parts start in the order in which they were added, and drain and stop in the reverse order unless the service names
another one: what takes work in drains first, what it hands its work to afterwards. A part whose background task dies,
or whose callback raises in the event loop, ends the whole service; the process is then started again by whatever runs
it, from a known state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from common import forks
from common.background import Report
from common.errors import WarrenError

EXIT_OK: Final = 0
"""Stopped as asked, after a complete drain."""
EXIT_FAILED: Final = 1
"""A part could not start, crashed or could not stop."""
EXIT_SETTINGS: Final = 2
"""The settings are wrong; nothing was started."""
EXIT_CUT_SHORT: Final = 3
"""Stopped as asked, but before the drain was complete. What was unfinished is done again elsewhere."""
EXIT_WORN_OUT: Final = 4
"""Stopped by itself, after a drain: it holds what only the end of the process gives back. Start it again."""

_OURS: Final = frozenset({"common", "scheduler_service", "worker_service"})
_LOOPS: Final = frozenset({"asyncio", "uvloop"})
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


class Retired(WarrenError):
    """A service drains and ends by itself; the text says why."""


class Part(Protocol):
    """One role of a service. Each method may be called more than once, and `stop` also without `start`."""

    async def start(self) -> None:
        """Begin. Returns when the part can be used by the parts that start after it."""

    async def drain(self) -> None:
        """Take nothing new; return when what was taken is finished."""

    async def stop(self) -> None:
        """Let go of everything, at once."""


P = TypeVar("P", bound=Part)


class Service:
    """Parts that start, drain and stop together.

    Args:
        name: for the log.
        drain_timeout: seconds that all parts together have to drain.
        after_drain: seconds beyond that in which they say what came of it.
        stop_timeout: seconds that each part has to stop.
    """

    def __init__(
        self, name: str, *, drain_timeout: float = 30.0, after_drain: float = 0.0, stop_timeout: float = 10.0
    ) -> None:
        self.name = name
        self.stop_order: Sequence[Part] | None = None
        """The order in which parts drain and stop; None is the reverse of the start order."""
        self._drain_timeout = drain_timeout
        self._after_drain = after_drain
        self._stop_timeout = stop_timeout
        self._parts: list[Part] = []
        self._started: list[Part] = []
        self._on_draining: list[Callable[[], None]] = []
        self._signals = 0
        self._draining = False
        self._retiring = False
        self._ended: Report | None = None
        self._asked = asyncio.Event()
        self._cut_short = asyncio.Event()
        self._failed = asyncio.Event()
        self.started = asyncio.Event()
        """Set when every part has started."""

    def add(self, part: P) -> P:
        """Start `part` after those that were added before it. Returns `part`."""
        self._parts.append(part)
        return part

    @property
    def draining(self) -> bool:
        """Whether the service has been asked to end."""
        return self._draining

    @property
    def failed(self) -> bool:
        """Whether it ends because something of its own crashed."""
        return self._failed.is_set()

    def on_draining(self, callback: Callable[[], None]) -> None:
        """Call `callback` when draining begins, before any part drains; the health server says so from then on."""
        self._on_draining.append(callback)

    def watch(self, task: asyncio.Task[Any]) -> None:
        """End the service with exit code 1 if `task` raises. For tasks that are not a `Background`."""
        task.add_done_callback(self._watched_done)

    def report(self, name: str, error: BaseException) -> None:
        """End the service with exit code 1 because the background task `name` died of `error`.

        Call it in the service's event loop. Only the first report is logged.
        """
        if self._failed.is_set():
            return
        self._failed.set()
        self._tell(name, error)
        _log.critical("a part crashed, the service ends", extra={"service": self.name, "part": name}, exc_info=error)

    def drain(self) -> None:
        """Ask the service to drain and stop, as SIGTERM does; asking again cuts the drain short."""
        if self._asked.is_set():
            self._cut_short.set()
        self._asked.set()

    def retire(self, reason: str) -> None:
        """Drain and stop with exit code 4, so that a fresh process is started. Nothing happens when it is ending."""
        if self._asked.is_set() or self._failed.is_set():
            return
        self._retiring = True
        _log.error("worn out, the service drains and ends", extra={"service": self.name, "reason": reason})
        self._tell("worn out", Retired(reason))
        self._asked.set()

    async def run(self, *, signals: bool = True) -> int:
        """Start, run until asked to end or until a part crashes, drain, stop.

        Args:
            signals: drain on SIGTERM and SIGINT; not when the process belongs to somebody else.

        Returns:
            One of the exit codes of this module.

        Raises:
            Exception: whatever a part raised in its `start`, after the parts before it were stopped.
        """
        if not signals:
            return await self._run()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._callback_failed)
        forks.keep(*_SIGNALS)
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            return await self._run()
        finally:
            loop.set_exception_handler(None)
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            forks.release(*_SIGNALS)

    async def begin(self, ended: Report | None = None) -> asyncio.Task[int]:
        """Run inside somebody else's process, without signals; returns, once every part has started, what runs.

        Args:
            ended: told when the service is about to end without having been asked to: which part, and of what.

        Raises:
            Exception: whatever keeps it from starting.
        """
        self._ended = ended
        running = asyncio.create_task(self.run(signals=False), name=self.name)
        started = asyncio.create_task(self.started.wait())
        await asyncio.wait((running, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if running.done():
            running.result()
        return running

    def _tell(self, part: str, error: BaseException) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(part, error)

    async def _run(self) -> int:
        code = EXIT_FAILED
        try:
            if await self._unless(self._start(), self._asked, self._failed):
                self.started.set()
                _log.info("started", extra={"service": self.name})
                await _first(self._asked, self._failed)
            code = await self._drain()
        finally:
            stopped = await self._stop()
        if not stopped or self._failed.is_set():
            code = EXIT_FAILED
        elif self._retiring and code in (EXIT_OK, EXIT_CUT_SHORT):
            code = EXIT_WORN_OUT
        _log.info("stopped", extra={"service": self.name, "exit_code": code})
        return code

    async def _start(self) -> None:
        for part in self._parts:
            self._started.append(part)
            await part.start()

    async def _drain(self) -> int:
        if self._failed.is_set():
            return EXIT_FAILED
        self._draining = True
        for callback in self._on_draining:
            callback()
        _log.info("draining", extra={"service": self.name, "timeout_seconds": self._drain_timeout})
        try:
            async with asyncio.timeout(self._drain_timeout + self._after_drain):
                complete = await self._unless(self._drain_parts(), self._cut_short, self._failed)
        except TimeoutError:
            complete = False
        except Exception:  # noqa: BLE001 - the boundary: whatever failed to drain has to be stopped all the same
            _log.exception("a part could not drain", extra={"service": self.name})
            self._failed.set()
            return EXIT_FAILED
        if complete:
            return EXIT_OK
        if not self._failed.is_set():
            _log.warning("stopping before the drain is complete", extra={"service": self.name})
        return EXIT_CUT_SHORT

    async def _drain_parts(self) -> None:
        for part in self._ending():
            await part.drain()

    async def _stop(self) -> bool:
        """Stop what was started. A part that cannot stop does not keep the others from stopping."""
        well = True
        for part in self._ending():
            name = type(part).__name__
            try:
                async with asyncio.timeout(self._stop_timeout):
                    await part.stop()
            except TimeoutError:
                well = False
                _log.error("a part did not stop in time", extra={"service": self.name, "part": name})
            except Exception:  # noqa: BLE001 - the boundary: the other parts have to be stopped too
                well = False
                _log.exception("a part could not stop", extra={"service": self.name, "part": name})
        return well

    def _ending(self) -> list[Part]:
        order = self.stop_order if self.stop_order is not None else self._parts[::-1]
        return [part for part in order if part in self._started]

    async def _unless(self, work: Coroutine[Any, Any, None], *events: asyncio.Event) -> bool:
        """Run `work` until it is done, or cancel it when one of `events` is set. True when it was done."""
        task = asyncio.create_task(work)
        ended = asyncio.create_task(_first(*events))
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.wait((task, ended))

    def _signalled(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > len(_SIGNALS):
            # Stopping itself seems to hang, and somebody insists.
            os._exit(128 + number)
        _log.info("received a signal", extra={"service": self.name, "signal": number.name, "count": self._signals})
        self.drain()

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the service when a callback or a task of ours raises: nobody awaits it, and its work is half done.

        A worker that went on would hold tasks that it neither runs nor gives back. Callbacks and tasks of libraries are
        only logged: theirs come from connections that we watch by other means.
        """
        error, task = context.get("exception"), context.get("future")
        heard = self._failed.is_set()  # only the first is reported
        if heard or not isinstance(error, Exception) or not _is_ours(error):
            loop.default_exception_handler(context)
        elif isinstance(task, asyncio.Task):
            # The garbage collector finds such a task, in whatever thread.
            loop.call_soon_threadsafe(self.report, task.get_name(), error)
        elif "handle" in context:
            self.report("event loop", error)
        else:
            loop.default_exception_handler(context)

    def _watched_done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.report(task.get_name(), error)


def _is_ours(error: Exception) -> bool:
    """Whether it was raised by a callback of Warren's own, or below one: the first frame that is not the loop's."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _LOOPS:
            return package in _OURS
    return False


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def loop_factory(fast_loop: bool = True) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's factory when it is wanted and installed (the extra ``fast``), else None for asyncio's own loop."""
    if not fast_loop:
        return None
    with contextlib.suppress(ImportError):
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return None


def run(main: Callable[[], Coroutine[Any, Any, int]], *, fast_loop: bool = True) -> int:
    """Run `main()` in a new event loop and return its exit code.

    Args:
        main: builds the service in the running loop and awaits `Service.run`.
        fast_loop: use uvloop when it is installed.

    Example:
        >>> async def main() -> int:
        ...     return 0
        >>> run(main)
        0
    """
    with asyncio.Runner(loop_factory=loop_factory(fast_loop)) as runner:
        return runner.run(main())


__all__ = [
    "EXIT_CUT_SHORT",
    "EXIT_FAILED",
    "EXIT_OK",
    "EXIT_SETTINGS",
    "EXIT_WORN_OUT",
    "Part",
    "Report",
    "Retired",
    "Service",
    "loop_factory",
    "run",
]

"""How a process of the worker tells where it is, also while it is stuck.

Besides the socket for its work each process has a second one for this::

    worker                                          process
      ── "?" ───────────────────────────────────────> the event loop of a coroutine function answers, through its awaits
      <──────────────────────────── one line of JSON ─
      ── zygote: SIGNAL ────────────────────────────> faulthandler writes the frames of the main thread
      <─────────────────────────────────────── text ─

The second way works while C code blocks or holds the interpreter's lock, since faulthandler is C code in a signal's
handler: it needs no interpreter. System calls are restarted (SA_RESTART), and Python's own sleeps go on; only a sleep
of C code that does not look whether it was interrupted ends early (signal(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import linecache
import re
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct

from common.errors import WireError
from common.wire import decode, encode
from worker_service.runtimes.awaits import cut, task_lines

SIGNAL: Final = signal.SIGRTMIN + 8 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""Not one of those that task functions and their libraries use."""
LOOP_SECONDS: Final = 0.3
"""An event loop has this long to answer; then it counts as blocked."""
SIGNAL_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 0.05
_MOST_BYTES: Final = 200_000
_ASK: Final = b"?"
_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
NO_ANSWER: Final = "(the process does not answer)"


class Said(Struct):
    """The answer of an event loop.

    Attributes:
        lease: of the attempt that it runs.
        lines: where that is.
    """

    lease: str
    lines: list[str]


class StackChannel:
    """The worker's end.

    Args:
        side: the socket, not blocking.
        send_signal: has `SIGNAL` sent to the process.
    """

    def __init__(self, side: socket.socket, send_signal: Callable[[], None]) -> None:
        self._side = side
        self._signal = send_signal
        self._asking = asyncio.Lock()
        self._closed = False

    async def ask(self, lease: str, *, coroutine: bool) -> list[str]:
        """Where the attempt is, the outermost frame first.

        Args:
            lease: of the attempt.
            coroutine: whether its function is a coroutine function.
        """
        async with self._asking:
            try:
                if coroutine and (lines := await self._ask_loop(lease)) is not None:
                    return lines
                return await self._ask_signal()
            except OSError:
                return [NO_ANSWER]
            finally:
                if self._closed:
                    self._side.close()

    def close(self) -> None:
        """Ask nothing more."""
        self._closed = True
        # Not under a question that waits: its end would unwatch whatever has got the same file descriptor by then.
        if not self._asking.locked():
            self._side.close()

    async def _ask_loop(self, lease: str) -> list[str] | None:
        self._forget()
        self._side.send(_ASK)
        text = b""
        while not text.endswith(b"\n") and len(text) < _MOST_BYTES:
            chunk = await self._receive(LOOP_SECONDS)
            if not chunk:
                return None
            text += chunk
        with contextlib.suppress(WireError):
            said = decode(Said, text.splitlines()[-1])
            return said.lines if said.lease == lease else None
        return None

    async def _ask_signal(self) -> list[str]:
        self._forget()
        self._signal()
        text = await self._receive(SIGNAL_SECONDS)
        while len(text) < _MOST_BYTES and (chunk := await self._receive(_QUIET_SECONDS)):
            text += chunk
        return frames_of(text.decode("utf-8", "replace")) or [NO_ANSWER]

    async def _receive(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().sock_recv(self._side, 1 << 16)
        except TimeoutError:
            return b""

    def _forget(self) -> None:
        """Throw away a late answer to an earlier question."""
        with contextlib.suppress(BlockingIOError):
            while self._side.recv(1 << 16):
                pass


def frames_of(text: str) -> list[str]:
    """What faulthandler wrote as lines of ours: the outermost frame first, from the task function on.

    Example:
        >>> frames_of('Stack (most recent call first):\\n  File "b.py", line 2 in g\\n  File "a.py", line 1 in f\\n')
        ['a.py:1 in f', 'b.py:2 in g']
    """
    lines: list[tuple[str, str]] = []
    for each in text.splitlines():
        if found := _FRAME.match(each):
            source = linecache.getline(found["file"], int(found["line"])).strip()[:200]
            place = f"{found['file']}:{found['line']} in {found['name']}"
            lines.append((found["file"], f"{place}: {source}" if source else place))
    return cut(lines[::-1])


class Teller:
    """The process's end.

    Args:
        side: the socket, not blocking.
    """

    def __init__(self, side: socket.socket) -> None:
        self._side = side
        faulthandler.register(SIGNAL, side.fileno(), all_threads=False, chain=False)

    @contextlib.contextmanager
    def answering(self, lease: str, task: asyncio.Task[object]) -> Iterator[None]:
        """Answer from the running event loop meanwhile.

        Args:
            lease: of the attempt.
            task: what runs it.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._side, self._answer, lease, task)
        try:
            yield
        finally:
            loop.remove_reader(self._side)

    def _answer(self, lease: str, task: asyncio.Task[object]) -> None:
        with contextlib.suppress(OSError):
            if not self._side.recv(1 << 10):
                asyncio.get_running_loop().remove_reader(self._side)  # the worker is gone
                return
            lines = task_lines(task, lambda _: None)
            body = encode(Said(lease, lines))
            while len(body) >= _MOST_BYTES // 2:
                lines = lines[: len(lines) // 2]
                body = encode(Said(lease, [*lines, "(cut)"]))
            self._side.send(body + b"\n")

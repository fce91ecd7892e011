"""A TCP proxy that provokes network faults between a client and a broker.

It runs in a thread with a loop of its own, so that sync tests and async tests use it alike and a blocked loop under
test does not block the network. Every method is thread-safe, returns at once and holds from then on, for the
connections that are open and those to come, until `heal()`.

    with Proxy("127.0.0.1", node.port) as proxy:
        connect(proxy.port); proxy.cut(); ...; proxy.heal()
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from deploy.local.ports import free_port

Direction = Literal["up", "down", "both"]  # up: from the client to the target
_Item = tuple[float, bytes | None]  # when it may go on (loop time) and what; empty: end of stream, None: reset


@dataclass(eq=False)
class _Link:
    """One client's connection and the proxy's connection to the target for it."""

    task: asyncio.Task[object] | None
    writers: list[asyncio.StreamWriter]
    lost_bytes: bool = False

    def reset(self) -> None:
        """End both sides with a TCP reset, as a firewall or a crash does."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        if self.task is not None:
            self.task.cancel()


class Proxy:
    """Forwards `127.0.0.1:port` to a target.

    Args:
        target_host: where the real broker is.
        target_port: its port.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = free_port()
        self._target = (target_host, target_port)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dropped: set[str] = set()
        self._stalled: set[str] = set()
        self._delay = 0.0
        self._slice = 1 << 16
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._links)

    def start(self) -> None:
        """Listen; returns once clients can connect.

        Raises:
            OSError: the port has been taken meanwhile.
        """
        self._thread.start()
        self._started.result()

    def stop(self) -> None:
        """Reset what is open, stop listening and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        self._apply(self._cut)

    def drop(self, direction: Direction = "both") -> None:
        """Swallow the bytes of one or both directions; connections stay open and look healthy to the sender."""
        self._apply(lambda: self._dropped.update(_directions(direction)))

    def stall(self, direction: Direction = "both") -> None:
        """Forward nothing more; what is sent meanwhile waits and goes on at `heal()`, as after a lost route."""
        self._apply(lambda: self._stalled.update(_directions(direction)))

    def delay(self, seconds: float) -> None:
        """Let every byte arrive this much later; the rate stays."""
        self._apply(lambda: setattr(self, "_delay", seconds))

    def slice(self, size: int) -> None:
        """Forward in pieces of at most `size` bytes, each a write of its own."""
        self._apply(lambda: setattr(self, "_slice", size))

    def heal(self) -> None:
        """End every fault; connections that have lost bytes are reset, since their stream makes no sense any more."""
        self._apply(self._heal)

    def _apply(self, change: Callable[[], object]) -> None:
        """Make a change in the proxy's own thread and return once it holds."""

        async def apply() -> None:
            async with self._changed:
                change()
                self._changed.notify_all()
            await self._listen()

        asyncio.run_coroutine_threadsafe(apply(), self._loop).result(timeout=10.0)

    def _cut(self) -> None:
        self._accepting = False
        for link in self._links:
            link.reset()

    def _heal(self) -> None:
        self._accepting = True
        self._dropped.clear()
        self._stalled.clear()
        self._delay, self._slice = 0.0, 1 << 16
        for link in self._links:
            if link.lost_bytes:
                link.reset()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Condition()
        self._accepting = True
        self._server: asyncio.Server | None = None
        try:
            await self._listen()
        except OSError as error:
            self._started.set_exception(error)
            return
        self._started.set_result(None)
        await self._stopping.wait()
        self._cut()
        await self._listen()

    async def _listen(self) -> None:
        """Listen, or stop listening, as `_accepting` says: a closed port refuses, as a dead broker's does."""
        if self._accepting and self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        elif not self._accepting and self._server is not None:
            self._server.close()
            self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: the task that asyncio would make of one complains on 3.11 when we cancel it.
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client's connection until both directions have ended."""
        link = _Link(asyncio.current_task(), [writer])
        self._links.add(link)
        try:
            onward_reader, onward_writer = await asyncio.open_connection(*self._target)
            link.writers.append(onward_writer)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._carry(link, "up", reader, onward_writer))
                directions.create_task(self._carry(link, "down", onward_reader, writer))
        except OSError:
            link.reset()
        finally:
            self._links.discard(link)
            for side in link.writers:
                side.close()

    async def _carry(
        self, link: _Link, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward one direction until its end; reading apart from writing keeps a delay from lowering the rate."""
        waiting: asyncio.Queue[_Item] = asyncio.Queue(maxsize=64)

        async def read() -> None:
            data: bytes | None = b"-"
            while data:
                try:
                    data = await reader.read(1 << 16)
                except OSError:
                    data = None
                await waiting.put((self._loop.time() + self._delay, data))

        async def write() -> None:
            data: bytes | None = b"-"
            while data:
                due, data = await waiting.get()
                await asyncio.sleep(due - self._loop.time())
                # When the receiver is gone, the opposite direction reads that too and tells the sender, unless it is
                # dropped; here its bytes just go nowhere.
                with contextlib.suppress(OSError):
                    await self._forward(link, direction, data, writer)

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            both.create_task(write())

    async def _forward(self, link: _Link, direction: str, data: bytes | None, writer: asyncio.StreamWriter) -> None:
        """Send on one piece, an end of stream (empty) or a reset (None), as the faults of this moment allow."""
        async with self._changed:
            await self._changed.wait_for(lambda: direction not in self._stalled)
        if direction in self._dropped:
            link.lost_bytes = True
        elif data is None:
            link.reset()
        elif not data:
            writer.write_eof()
        else:
            for start in range(0, len(data), self._slice):
                writer.write(data[start : start + self._slice])
                await writer.drain()


def _directions(direction: Direction) -> set[str]:
    return {"up", "down"} if direction == "both" else {direction}

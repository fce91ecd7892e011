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
from types import TracebackType
from typing import Literal, Self

from deploy.local.ports import free_port

Direction = Literal["up", "down", "both"]  # up: from the client to the target
_Item = tuple[float, bytes]  # when it may go on (loop time), and what; empty bytes are the end of the stream


class _Link:
    """One client's connection and the proxy's connection to the target for it."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.lost_bytes = False

    def reset(self) -> None:
        """End both sides with a TCP reset, as a firewall or a crash does."""
        for writer in self.writers:
            with contextlib.suppress(OSError):
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


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
        self._server: asyncio.Server | None = None
        self._dropping: set[str] = set()
        self._stalled: set[str] = set()
        self._delay = 0.0
        self._slice = 1 << 16
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

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
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Reset what is open, stop listening and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        self._call(self._close)

    def drop(self, direction: Direction = "both") -> None:
        """Swallow the bytes of one or both directions; connections stay open and look healthy to the sender."""
        self._call(lambda: self._dropping.update(_directions(direction)))

    def stall(self, direction: Direction = "both") -> None:
        """Forward nothing more; what is sent meanwhile waits and goes on at `heal()`, as after a lost route."""
        self._call(lambda: self._stalled.update(_directions(direction)))

    def delay(self, seconds: float) -> None:
        """Let every byte arrive this much later; the rate stays."""
        self._call(lambda: setattr(self, "_delay", seconds))

    def slice(self, size: int) -> None:
        """Forward in pieces of at most `size` bytes, each a write of its own."""
        self._call(lambda: setattr(self, "_slice", size))

    def heal(self) -> None:
        """End every fault; connections that have lost bytes are reset, since their stream makes no sense any more."""
        self._call(self._heal, wait_for=self._listen)

    def _call(self, change: Callable[[], None], wait_for: Callable[[], object] | None = None) -> None:
        raise NotImplementedError

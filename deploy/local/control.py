"""The owner's side of `control.erl`: Erlang expressions evaluated inside a private node, in a millisecond."""

import contextlib
import socket
import struct
from pathlib import Path


class BrokerError(Exception):
    """A broker on this machine cannot be found, started or asked; the text says why and what to do."""


class Control:
    """Talks to one node over its unix socket.

    Args:
        path: the socket; it exists only while a booted node listens.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lifeline: socket.socket | None = None

    def eval(self, expression: str, timeout: float = 10.0) -> str:
        """Evaluate an Erlang expression, which ends with a full stop, in the node.

        Args:
            expression: for instance `rabbit:is_running().`
            timeout: seconds for the whole call; a paused node does not answer.
        Returns:
            A binary as its text, any other term as Erlang prints it.
        Raises:
            BrokerError: the node is not there, does not answer in time, or the expression fails.
        """
        try:
            with self._connect(timeout) as connection:
                return self._ask(connection, expression)
        except OSError as error:
            raise BrokerError(f"the node does not answer on {self._path}: {error!r}") from error

    def hold(self) -> None:
        """Tie the node's life to this process: it ends itself when this process dies without `release()`."""
        connection = self._connect(timeout=10.0)
        try:
            self._ask(connection, "lifeline")
        except BaseException:
            connection.close()
            raise
        self._lifeline = connection

    def release(self) -> None:
        """Let the node live (or die) on its own; harmless when it is gone or was never held."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is None:
            return
        with lifeline, contextlib.suppress(OSError, BrokerError):
            lifeline.settimeout(1.0)
            self._ask(lifeline, "release")

    def _connect(self, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask(self, connection: socket.socket, text: str) -> str:
        body = text.encode()
        connection.sendall(struct.pack(">I", len(body)) + body)
        (size,) = struct.unpack(">I", _receive(connection, 4))
        answer = _receive(connection, size).decode()
        if not answer.startswith("+"):
            raise BrokerError(f"the node refuses {text!r}: {answer[1:]}")
        return answer[1:]


def _receive(connection: socket.socket, size: int) -> bytes:
    """Read exactly `size` bytes.

    Raises:
        ConnectionError: the node closed the connection before that.
    """
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("closed by the node")
        data += piece
    return bytes(data)

"""What a worker and one of its processes say to each other, on a socket of their own.

::

    worker                        process
      ── WORK: an attempt ────────>
      <──────── PROGRESS ─────────   any number of times, a few a second
      <──────── SUBMIT ───────────   a child task ...
      ── ANSWER ──────────────────>  ... is confirmed, or why not
      <──────── OUTCOME ──────────

Each frame is its length, one byte for its kind, and JSON.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from msgspec import Struct

from common.wire import Assignment

HEADER: Final = struct.Struct("!Ic")
WORK: Final = b"W"
ANSWER: Final = b"A"
OUTCOME: Final = b"O"
PROGRESS: Final = b"P"
SUBMIT: Final = b"S"


class Work(Struct):
    """One attempt for a process.

    Attributes:
        assignment: the attempt.
        queue: where it came from.
    """

    assignment: Assignment
    queue: str


class Answer(Struct):
    """What became of a child task; `fault` is empty when it was confirmed."""

    fault: str = ""


def frame(kind: bytes, body: bytes) -> bytes:
    """One frame."""
    return HEADER.pack(len(body), kind) + body


def read_frame(pipe: socket.socket) -> tuple[bytes, bytes]:
    """The kind and the body of the next frame, from a blocking socket.

    Raises:
        EOFError: the other end is closed.
    """
    length, kind = HEADER.unpack(_read_exactly(pipe, HEADER.size))
    return kind, _read_exactly(pipe, length)


def _read_exactly(pipe: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = pipe.recv(min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError("the other end is closed")
        data += chunk
    return bytes(data)

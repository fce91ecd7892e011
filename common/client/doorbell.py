"""A pipe by which any thread wakes the I/O thread."""

from __future__ import annotations

import contextlib
import os


class Doorbell:
    """Rings without a lock, so that it may be rung while garbage is collected.

    The pipe is closed when nobody holds the doorbell any more: a late ring must never write into a file that got the
    same number.

    Attributes:
        fd: becomes readable when it is rung.
        rung: it was rung, and nobody has answered yet.
    """

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        self.rung = False
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)

    def ring(self) -> None:
        """Make `fd` readable."""
        if not self.rung:
            self.rung = True
            with contextlib.suppress(BlockingIOError):  # full: it is being heard already
                os.write(self._write_fd, b"\0")

    def answer(self) -> None:
        """Make `fd` unreadable. What was put in place before a ring is seen by whoever looks after this."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 65536)
        self.rung = False

    def __del__(self) -> None:
        for fd in (self.fd, self._write_fd):
            with contextlib.suppress(OSError):
                os.close(fd)

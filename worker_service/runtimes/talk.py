"""What is done for a task in a process of its own: the worker does it, and is told over their socket (`frames`).

A timeout may be raised anywhere in a plain function (`SignalInterrupt`), so also in here, and half a frame would make
the process useless: it is held back while a frame is written or read, but not while an answer is waited for. An answer
that comes after that is skipped, or the process would take it for its next attempt.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from concurrent.futures import Future
from typing import Final

from common.errors import ConnectionLost
from common.questions import Progress
from common.wire import TaskMessage, decode, encode
from worker_service.interrupts import SignalInterrupt
from worker_service.runtimes.frames import PROGRESS, SUBMIT, Answer, frame, read_frame

EVERY: Final = 0.25
"""Seconds between two words on progress."""
_STACK: Final = 256 * 1024
"""Bytes for the thread that sends them: the usual 8 MiB would count against the task's memory limit."""


class Talk:
    """This end of the socket, but for attempts and outcomes.

    Args:
        pipe: shared with the worker.

    Attributes:
        lease: of the attempt that runs.
        interrupt: what may raise its timeout in this thread, if anything does.
    """

    def __init__(self, pipe: socket.socket) -> None:
        self.lease = ""
        self.interrupt: SignalInterrupt | None = None
        self._pipe = pipe
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._unanswered = 0
        self._sent_at = 0.0
        self._unsent: Progress | None = None
        self._wake = threading.Event()
        self._follower: threading.Thread | None = None

    def send(self, kind: bytes, body: bytes) -> None:
        """Send a frame."""
        with self._whole(), self._lock:
            self._pipe.sendall(frame(kind, body))

    def progress(self, lease: str, progress: Progress) -> None:
        """See `Surroundings.progress`."""
        if lease != self.lease:
            return  # from a thread that an earlier task has left behind
        with self._whole():
            with self._lock:
                self._unsent = progress
                due = time.monotonic() - self._sent_at >= EVERY
            if due or not self._followed():
                self._flush()
            else:
                self._wake.set()

    def flush(self) -> None:
        """Send the progress that has not been sent: the last word counts."""
        with self._whole():
            self._flush()

    def submit(self, message: TaskMessage) -> Future[None]:
        """See `Surroundings.submit`; it is done when this returns."""
        done: Future[None] = Future()
        with self._asking:
            with self._whole(), self._lock:
                self._pipe.sendall(frame(SUBMIT, encode(message)))
                self._unanswered += 1
            body = self._answer()
        fault = decode(Answer, body).fault
        if fault:
            done.set_exception(ConnectionLost(fault))
        else:
            done.set_result(None)
        return done

    def not_waited_for(self) -> None:
        """An answer has come to somebody whose timeout came first."""
        self._unanswered -= 1

    def _answer(self) -> bytes:
        """The answer to the newest question: they come in order."""
        readable = select.poll()
        readable.register(self._pipe, select.POLLIN)
        while True:
            readable.poll()
            with self._whole():
                _, body = read_frame(self._pipe)
                self._unanswered -= 1
                mine = not self._unanswered
            if mine:
                return body

    def _whole(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.interrupt is None else self.interrupt.held()

    def _flush(self) -> None:
        with self._lock:
            said, self._unsent = self._unsent, None
            if said is not None:
                self._sent_at = time.monotonic()
                self._pipe.sendall(frame(PROGRESS, encode(said)))

    def _followed(self) -> bool:
        """Whether a thread sends later what is not sent now."""
        if self._follower is None:
            follower = threading.Thread(target=self._follow, name="progress", daemon=True)
            before = threading.stack_size(_STACK)
            try:
                follower.start()
            except (RuntimeError, MemoryError):
                return False  # no room for a thread: then every word is sent
            finally:
                threading.stack_size(before)
            self._follower = follower
        return True

    def _follow(self) -> None:
        while self._wake.wait():
            self._wake.clear()
            time.sleep(max(0.0, self._sent_at + EVERY - time.monotonic()))
            try:
                self._flush()
            except OSError:
                return  # the worker is gone

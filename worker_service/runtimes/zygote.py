"""The process that suspects are forked from. Runs in a process of its own, started by `runtimes.child`.

It imports the user's modules once and then forks one child for each attempt, within milliseconds. It has one thread, no
event loop and no connection, so that forking it is safe. With the worker it shares one socket:

    worker ── job number + one end of a socket pair ──> zygote ── fork ──> child: reads its attempt from its end,
           <──── job number + wait status ───────────                     runs it, writes its outcome, exits

The end of the worker closes the socket: then the zygote kills its children and ends too. Should it have no time for
that, the kernel does it (`prctl.die_with_parent`).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import os
import selectors
import signal
import socket
import struct
import sys
from typing import Final, NoReturn

import msgspec

from common import logs
from common.errors import SettingsError, WarrenError
from common.wire import Assignment, ErrorKind, Outcome, decode, encode
from worker_service.handlers import Handler
from worker_service.loader import load
from worker_service.pipeline import run_coroutine, run_plain
from worker_service.results import Limits, failure
from worker_service.runtimes.prctl import die_with_parent

NUMBER: Final = struct.Struct("!Q")
STATUS: Final = struct.Struct("!Qi")
LENGTH: Final = struct.Struct("!I")
READY: Final = b"R"
FAULT: Final = b"F"


class Setup(msgspec.Struct, frozen=True):
    """What the zygote is told on its command line.

    Attributes:
        modules: the user's modules.
        parent: the worker's process id.
        socket: the file descriptor shared with the worker.
        result_bytes, depth: see `Limits`.
        log_level, log_format: see `common.logs.configure`.
    """

    modules: list[str]
    parent: int
    socket: int
    result_bytes: int
    depth: int
    log_level: str
    log_format: str


def main(argument: str) -> None:
    """Import, say so, and fork until the worker is gone."""
    setup = msgspec.json.decode(argument, type=Setup)
    # A stop of the whole control group reaches this process too; it ends when the worker does, not before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    die_with_parent(setup.parent)
    control = socket.socket(fileno=setup.socket)
    logs.configure(setup.log_level, setup.log_format, "worker")  # type: ignore[arg-type]
    try:
        handlers = load(setup.modules)
    except WarrenError as error:
        text = "; ".join(error.faults) if isinstance(error, SettingsError) else str(error)
        control.sendall(FAULT + text.encode("utf-8", "backslashreplace"))
        return
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared
    control.sendall(READY)
    Zygote(control, handlers, Limits(setup.result_bytes, setup.depth)).serve()


class Zygote:
    """Forks a child for each request and reports its end.

    Args:
        control: the socket shared with the worker.
        handlers: the task functions.
        limits: bounds on arguments and results.
    """

    def __init__(self, control: socket.socket, handlers: dict[str, Handler], limits: Limits) -> None:
        self._control = control
        self._handlers = handlers
        self._limits = limits
        self._pid = os.getpid()
        self._children: dict[int, int] = {}
        """Job numbers by process id."""
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)

    def serve(self) -> None:
        """Fork until the worker closes its end; then kill what is left."""
        signal.set_wakeup_fd(self._wake_writer)
        signal.signal(signal.SIGCHLD, _ignore)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            going = True
            while going:
                for key, _ in selector.select():
                    if key.fileobj is self._control:
                        going = self._receive()
                    else:
                        os.read(self._wake_reader, 4096)
                self._reap()
        for pid in self._children:
            _kill_group(pid)

    def _receive(self) -> bool:
        """Fork for one request. False when the worker is gone."""
        data, fds = _receive_with_fd(self._control)
        if not data:
            return False
        (job,) = NUMBER.unpack(data)
        (fd,) = fds
        pid = os.fork()
        if pid == 0:
            self._be_child(fd)
        os.close(fd)
        self._children[pid] = job
        return True

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            job = self._children.pop(pid, None)
            if job is not None:
                with contextlib.suppress(OSError):
                    self._control.sendall(STATUS.pack(job, os.waitstatus_to_exitcode(status)))

    def _be_child(self, fd: int) -> NoReturn:
        """Run one attempt in this new process; never returns into the zygote's loop."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent(self._pid)
            os.setsid()
            self._control.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            with socket.socket(fileno=fd) as pipe:
                outcome = self._run(pipe)
                body = encode(outcome)
                pipe.sendall(LENGTH.pack(len(body)) + body)
            code = 0
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            # No cleaning up: exit handlers belong to the process that registered them.
            os._exit(code)

    def _run(self, pipe: socket.socket) -> Outcome:
        assignment = decode(Assignment, read_message(pipe))
        handler = self._handlers.get(assignment.task)
        if handler is None:
            return failure(assignment, ErrorKind.CRASHED, "NotFound", "the child process does not know the function")
        if handler.is_coroutine:
            # Not `asyncio.run`: it waits for tasks that the function left behind, and the result is there already.
            return asyncio.new_event_loop().run_until_complete(run_coroutine(assignment, handler, self._limits))
        return run_plain(assignment, handler, self._limits)


def read_message(pipe: socket.socket) -> bytes:
    """One message with its length before it, from a blocking socket."""
    (length,) = LENGTH.unpack(_read_exactly(pipe, LENGTH.size))
    return _read_exactly(pipe, length)


def _read_exactly(pipe: socket.socket, count: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < count:
        chunk = pipe.recv(min(count - len(chunks), 1 << 20))
        if not chunk:
            raise EOFError("the worker closed the pipe")
        chunks += chunk
    return bytes(chunks)


def _receive_with_fd(control: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    data, ancillary, _, _ = control.recvmsg(NUMBER.size, socket.CMSG_LEN(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - (len(content) % fds.itemsize)])
    return data, list(fds)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _ignore(number: int, frame: object) -> None:
    """Not SIG_IGN: programs that a task function starts would inherit that."""

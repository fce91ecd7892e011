"""The process that the worker's processes are forked from: those of suspects, and those of the pool.

It imports the user's modules once and then forks within milliseconds. It has one thread, no event loop and no
connection, so that forking it is safe: what multiprocessing calls a forkserver, with the modules in it. With the worker
it shares one socket:

    worker ── job number + an end of two socket pairs ─> zygote ── fork ──> process: see `frames`
           ── job number alone ───────────────────────>        ── SIGKILL ──>
           ── job number with `STACK` ────────────────>        ── SIGNAL ───> see `stack_channel`
           <──── job number, wait status, memory ─────

The end of the worker closes the socket: then the zygote kills its children and ends too. Should it have no time for
that, the kernel does it (`prctl.die_with_parent`).
"""

from __future__ import annotations

import array
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

from common import forks, logs
from common.errors import SettingsError, WarrenError
from worker_service.handlers import Handler
from worker_service.loader import load
from worker_service.results import Limits
from worker_service.runtimes.prctl import die_with_parent
from worker_service.runtimes.serving import Server
from worker_service.runtimes.stack_channel import SIGNAL, Teller

NUMBER: Final = struct.Struct("!Q")
STATUS: Final = struct.Struct("!QiQ")
STACK: Final = 1 << 63
"""Added to a job's number: its process is to tell where it is."""
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
    # A new process gets `SIGNAL` perhaps before it is ready for it, which would end it.
    for number in (signal.SIGTERM, signal.SIGINT, SIGNAL):
        signal.signal(number, _ignore)
    die_with_parent(setup.parent)
    control = socket.socket(fileno=setup.socket)
    logs.configure(setup.log_level, setup.log_format, "worker")  # type: ignore[arg-type]
    try:
        handlers = load(setup.modules)
    except WarrenError as error:
        text = "; ".join(error.faults) if isinstance(error, SettingsError) else str(error)
        _say(control, FAULT + text.encode("utf-8", "backslashreplace"))
        return
    gc.collect()
    gc.freeze()  # what is shared with the children stays shared
    if _say(control, READY):
        Zygote(control, handlers, Limits(setup.result_bytes, setup.depth)).serve()


def _say(control: socket.socket, text: bytes) -> bool:
    """False when the worker has ended meanwhile."""
    try:
        control.sendall(text)
    except ConnectionError:
        return False
    return True


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
        data, fds = _receive_with_fds(self._control)
        if not data:
            return False
        (job,) = NUMBER.unpack(data)
        if not fds:
            if job & STACK:
                self._signal(job ^ STACK)
            else:
                self._kill(job)
            return True
        pid = os.fork()
        if pid == 0:
            self._be_child(*fds)
        for fd in fds:
            os.close(fd)
        self._children[pid] = job
        return True

    def _reap(self) -> None:
        while self._children:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            job = self._children.pop(pid, None)
            if job is not None:
                with contextlib.suppress(OSError):
                    memory = usage.ru_maxrss * 1024
                    self._control.sendall(STATUS.pack(job, os.waitstatus_to_exitcode(status), memory))

    def _kill(self, job: int) -> None:
        # Here, since a process id is certain to be that child's only until it has been waited for.
        for pid, number in self._children.items():
            if number == job:
                _kill_group(pid)

    def _signal(self, job: int) -> None:
        for pid, number in self._children.items():
            if number == job:
                with contextlib.suppress(OSError):
                    os.kill(pid, SIGNAL)

    def _be_child(self, fd: int, side_fd: int) -> NoReturn:
        """Be this new process; never returns into the zygote's loop."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent(self._pid)
            os.setsid()
            self._control.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            forks.keep(signal.SIGTERM, signal.SIGINT)
            with socket.socket(fileno=fd) as pipe, socket.socket(fileno=side_fd) as side:
                side.setblocking(False)
                Server(pipe, self._handlers, self._limits, Teller(side)).serve()
            code = 0
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            # No cleaning up: exit handlers belong to the process that registered them.
            os._exit(code)


def _receive_with_fds(control: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    try:
        data, ancillary, _, _ = control.recvmsg(NUMBER.size, socket.CMSG_LEN(2 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", []  # the worker has gone before it had read everything
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

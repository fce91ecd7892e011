"""The worker's end of the zygote: starts it, hands it attempts, hears how the children ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from common.errors import SettingsError, WarrenError, WireError
from common.wire import Assignment, ErrorKind, Outcome, decode, encode
from worker_service.results import MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES, Limits, failure
from worker_service.runtimes.zygote import LENGTH, NUMBER, READY, STATUS, Setup

START_SECONDS: Final = 60.0
"""The user's modules have this long to be imported."""
_LAST_WORDS_SECONDS: Final = 1.0
_BUSY: Final = (errno.EAGAIN, errno.ETOOMANYREFS)
_ALLOWED: Final = frozenset(
    {
        "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TEMP",
        "TMP", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV",
    }
)  # fmt: skip
_ALLOWED_PREFIXES: Final = ("LC_", "PYTHON")
_COMMAND: Final = (
    "import json, sys; path, setup = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from worker_service.runtimes.zygote import main; main(setup)"
)


class ZygoteDied(WarrenError):
    """The process that forks the children has ended by itself.

    Attributes:
        alone: whether only one child was running, which is then the likely culprit.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        super().__init__("the process that forks children died")


def child_environment(environ: Mapping[str, str], further: Sequence[str]) -> dict[str, str]:
    """What of `environ` the children get, the usual variables and `further`: no secret is inherited unasked."""
    return {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or name in further or name.startswith(_ALLOWED_PREFIXES)
    }


class Forker:
    """A running zygote; make it with `start`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, limits: Limits) -> None:
        self._process = process
        self._control = control
        # A traceback and a message may each take six times their size as escaped JSON.
        self._longest = limits.result_bytes + 6 * (MAX_MESSAGE_BYTES + MAX_TRACEBACK_BYTES) + 4096
        self._jobs: dict[int, asyncio.Future[int]] = {}
        self._next = 0
        self._listener = asyncio.get_running_loop().create_task(self._listen(), name="zygote")
        self.alive = True

    @classmethod
    async def start(
        cls, modules: Sequence[str], limits: Limits, environment: Mapping[str, str], log_level: str, log_format: str
    ) -> Forker:
        """Start a zygote and wait until it has imported `modules`.

        Args:
            modules: the user's modules.
            limits: bounds on arguments and results.
            environment: the children's whole environment.
            log_level, log_format: see `common.logs.configure`.

        Raises:
            SettingsError: it cannot import them, or not in time.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        setup = Setup(
            list(modules), os.getpid(), theirs.fileno(), limits.result_bytes, limits.depth, log_level, log_format
        )
        process = _spawn(setup, theirs.fileno(), environment)
        theirs.close()
        try:
            async with asyncio.timeout(START_SECONDS):
                fault = await _first_words(ours)
        except BaseException as error:
            ours.close()
            await _end(process)
            if isinstance(error, TimeoutError):
                raise SettingsError([f"modules: importing them takes longer than {START_SECONDS:.0f} s"]) from None
            raise
        if fault is not None:
            ours.close()
            await _end(process)
            hint = "they get only a part of the environment, see the setting child_environment"
            raise SettingsError([f"modules cannot be imported in the processes for suspects ({hint}): {fault}"])
        return cls(process, ours, limits)

    async def run(self, assignment: Assignment) -> Outcome:
        """Run one attempt in a child and wait for its end.

        Raises:
            ZygoteDied: nothing is known of the attempt.
        """
        loop = asyncio.get_running_loop()
        self._next += 1
        job, ended = self._next, loop.create_future()
        self._jobs[job] = ended
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            try:
                await self._send(job, theirs.fileno())
            finally:
                theirs.close()
            talking = loop.create_task(self._talk(ours, encode(assignment)))
            try:
                status = await ended
                # Everything that the child wrote is in the socket; only a process that it left behind keeps it open.
                await asyncio.wait((talking,), timeout=_LAST_WORDS_SECONDS)
                body = talking.result() if talking.done() else None
            finally:
                talking.cancel()
                await asyncio.wait((talking,))
        finally:
            self._jobs.pop(job, None)
            ours.close()
        return _verdict(assignment, body, status)

    async def stop(self) -> None:
        """Kill the children and end the zygote."""
        self.alive = False
        self._listener.cancel()
        await asyncio.wait((self._listener,))
        self._control.close()
        await _end(self._process)

    async def _send(self, job: int, fd: int) -> None:
        while True:
            if not self.alive:
                raise ZygoteDied(len(self._jobs) == 1)
            try:
                socket.send_fds(self._control, [NUMBER.pack(job)], [fd])
            except OSError as error:
                if error.errno not in _BUSY:
                    raise ZygoteDied(len(self._jobs) == 1) from error
            else:
                return
            await asyncio.sleep(0.005)  # it forks as fast as it can

    async def _talk(self, pipe: socket.socket, request: bytes) -> bytes | None:
        """Send the attempt, read the outcome. None when the child ends or says something else."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(pipe, LENGTH.pack(len(request)) + request)
            header = await _read(pipe, LENGTH.size)
            if header is None:
                return None
            (length,) = LENGTH.unpack(header)
            return await _read(pipe, length) if length <= self._longest else None
        except OSError:
            return None

    async def _listen(self) -> None:
        while (data := await _read(self._control, STATUS.size)) is not None:
            job, status = STATUS.unpack(data)
            ended = self._jobs.get(job)
            if ended is not None and not ended.done():
                ended.set_result(status)
        self.alive = False
        open_jobs = [ended for ended in self._jobs.values() if not ended.done()]
        for ended in open_jobs:
            ended.set_exception(ZygoteDied(len(open_jobs) == 1))


def _spawn(setup: Setup, fd: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    argument = json.dumps([sys.path, encode(setup).decode()])
    return subprocess.Popen(  # noqa: S603 - this very interpreter
        [sys.executable, "-c", _COMMAND, argument],
        env=dict(environment),
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for the worker, which drains
    )


async def _first_words(control: socket.socket) -> str | None:
    """None when the zygote is ready, else what went wrong."""
    said = b""
    while chunk := await _recv(control, 4096):
        said += chunk
        if said == READY:
            return None
    return said[1:].decode("utf-8", "replace") if said else "the process ended at once"


def _verdict(assignment: Assignment, body: bytes | None, status: int) -> Outcome:
    if body is not None:
        with contextlib.suppress(WireError):
            outcome = decode(Outcome, body)
            if (outcome.id, outcome.lease) == (assignment.id, assignment.lease):
                return outcome
    return crashed(assignment, describe(status))


def crashed(assignment: Assignment, how: str) -> Outcome:
    """The outcome of an attempt whose process died."""
    return failure(assignment, ErrorKind.CRASHED, "ProcessDied", how)


def describe(status: int) -> str:
    """How a child ended, from its exit code; that of a killed one is the negative number of the signal."""
    if status >= 0:
        return f"exit code {status} without a result"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


async def _read(pipe: socket.socket, count: int) -> bytes | None:
    """Exactly `count` bytes, or None when the other end is closed before that."""
    data = bytearray()
    while len(data) < count:
        chunk = await _recv(pipe, min(count - len(data), 1 << 18))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


async def _recv(pipe: socket.socket, count: int) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(pipe, count)
    except ConnectionError:
        return b""


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process, which ends when its socket is closed; kill it when it does not."""

    def wait() -> None:
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    await asyncio.get_running_loop().run_in_executor(None, wait)

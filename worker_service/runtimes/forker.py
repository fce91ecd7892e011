"""The worker's end of the zygote: starts it, has it fork and kill, hears how its children ended."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from common.context import Surroundings
from common.errors import SettingsError, WarrenError
from common.wire import encode
from worker_service.results import MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES, Limits
from worker_service.runtimes.process import Ended, Process, read, receive
from worker_service.runtimes.stack_channel import StackChannel
from worker_service.runtimes.zygote import NUMBER, READY, STACK, STATUS, Setup

START_SECONDS: Final = 60.0
"""The user's modules have this long to be imported."""
_LONGEST_SUBMISSION: Final = 2 * 1024 * 1024
_BUSY: Final = (errno.EAGAIN, errno.ETOOMANYREFS)
_OURS: Final = "WARREN_"
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
    """What of `environ` the children get: all but Warren's own settings, with the broker's password, and `further`.

    A task that becomes a suspect was run in the worker before, with all of its environment: were it to lack there what
    it has here, it would fail for good, although it is innocent.
    """
    return {name: value for name, value in environ.items() if not name.startswith(_OURS) or name in further}


class Forker:
    """A running zygote; make it with `start`."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, limits: Limits, surroundings: Surroundings
    ) -> None:
        self._process = process
        self._control = control
        # A traceback and a message may each take six times their size as escaped JSON.
        outcome = limits.result_bytes + 6 * (MAX_MESSAGE_BYTES + MAX_TRACEBACK_BYTES) + 4096
        self._longest = max(outcome, _LONGEST_SUBMISSION)
        self._surroundings = surroundings
        self._jobs: dict[int, asyncio.Future[WarrenError]] = {}
        self._next = 0
        self._listener = asyncio.get_running_loop().create_task(self._listen(), name="zygote")
        self.alive = True

    @classmethod
    async def start(
        cls,
        modules: Sequence[str],
        limits: Limits,
        environment: Mapping[str, str],
        log_level: str,
        log_format: str,
        surroundings: Surroundings,
    ) -> Forker:
        """Start a zygote and wait until it has imported `modules`.

        Args:
            modules: the user's modules.
            limits: bounds on arguments and results.
            environment: the children's whole environment.
            log_level, log_format: see `common.logs.configure`.
            surroundings: what is done for the tasks.

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
            hint = "they get no WARREN_ variables but those named in the setting child_environment"
            raise SettingsError([f"modules cannot be imported in the processes for suspects ({hint}): {fault}"])
        return cls(process, ours, limits, surroundings)

    async def fork(self) -> Process:
        """A new process.

        Raises:
            ZygoteDied: there is none, and will be none.
        """
        self._next += 1
        job = self._next
        ended: asyncio.Future[WarrenError] = asyncio.get_running_loop().create_future()
        self._jobs[job] = ended
        (ours, theirs), (side, their_side) = socket.socketpair(), socket.socketpair()
        for end in (ours, side, their_side):
            end.setblocking(False)
        try:
            await self._send(job, theirs.fileno(), their_side.fileno())
        except BaseException:
            self._jobs.pop(job, None)
            ours.close()
            side.close()
            raise
        finally:
            theirs.close()
            their_side.close()
        stacks = StackChannel(side, lambda: self._tell(job, STACK))
        return Process(ours, ended, lambda: self._tell(job), self._longest, self._surroundings, stacks)

    async def stop(self) -> None:
        """Kill the children and end the zygote."""
        self.alive = False
        self._listener.cancel()
        await asyncio.wait((self._listener,))
        self._control.close()
        await _end(self._process)

    async def _send(self, job: int, *fds: int) -> None:
        while True:
            if not self.alive:
                raise ZygoteDied(len(self._jobs) == 1)
            try:
                socket.send_fds(self._control, [NUMBER.pack(job)], list(fds))
            except OSError as error:
                if error.errno not in _BUSY:
                    raise ZygoteDied(len(self._jobs) == 1) from error
            else:
                return
            await asyncio.sleep(0.005)  # it forks as fast as it can

    def _tell(self, job: int, flag: int = 0) -> None:
        """Have its process killed, or signalled with the flag `STACK`."""
        if job not in self._jobs or not self.alive:
            return
        try:
            self._control.send(NUMBER.pack(job | flag))
        except BlockingIOError:
            asyncio.get_running_loop().call_later(0.005, self._tell, job, flag)
        except OSError:
            return  # it has ended, and its children with it

    async def _listen(self) -> None:
        while (data := await read(self._control, STATUS.size)) is not None:
            job, status, memory = STATUS.unpack(data)
            ended = self._jobs.pop(job, None)
            if ended is not None:
                ended.set_result(Ended(status, memory))
        self.alive = False
        jobs, self._jobs = self._jobs, {}
        for ended in jobs.values():
            ended.set_result(ZygoteDied(len(jobs) == 1))


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
    while chunk := await receive(control, 4096):
        said += chunk
        if said == READY:
            return None
    return said[1:].decode("utf-8", "replace") if said else "the process ended at once"


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process, which ends when its socket is closed; kill it when it does not."""

    def wait() -> None:
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    await asyncio.get_running_loop().run_in_executor(None, wait)

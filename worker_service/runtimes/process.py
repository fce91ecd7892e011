"""The worker's end of one of its processes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Final

from common.context import Surroundings
from common.errors import BrokerError, WarrenError, WireError
from common.questions import Progress
from common.wire import ErrorKind, Outcome, TaskMessage, decode, encode
from worker_service.advice import advise
from worker_service.attempts import Attempt
from worker_service.results import failure
from worker_service.runtimes.frames import ANSWER, HEADER, OUTCOME, PROGRESS, SUBMIT, WORK, Answer, Work, frame
from worker_service.runtimes.memory import mebibytes
from worker_service.runtimes.stack_channel import StackChannel

_LAST_WORDS_SECONDS: Final = 1.0
_NEAR_LIMIT: Final = 0.9


class Ended(WarrenError):
    """The process has ended.

    Attributes:
        status: its exit code; of a killed one the negative number of the signal.
        memory: bytes that it had at most.
    """

    def __init__(self, status: int, memory: int) -> None:
        self.status = status
        self.memory = memory
        super().__init__(describe(status))


class Process:
    """A process that runs one attempt at a time.

    Args:
        pipe: shared with it.
        ended: set when it has ended, with an `Ended` or a `ZygoteDied`; never cancelled.
        kill: kills it.
        longest: bytes of a frame at most.
        surroundings: what is done for its tasks.
        stacks: asks where it is.
    """

    def __init__(
        self,
        pipe: socket.socket,
        ended: asyncio.Future[WarrenError],
        kill: Callable[[], None],
        longest: int,
        surroundings: Surroundings,
        stacks: StackChannel,
    ) -> None:
        self._pipe = pipe
        self._stacks = stacks
        self._ended = ended
        self._longest = longest
        self._surroundings = surroundings
        self.kill = kill
        self.tasks = 0
        """How many attempts it has been given."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as we know."""
        return not self._ended.done()

    async def run(self, attempt: Attempt) -> Outcome:
        """Run one attempt; its outcome, which is a crash when the process ends instead.

        Raises:
            ZygoteDied: nothing is known of the attempt.
        """
        self.tasks += 1
        talking = asyncio.get_running_loop().create_task(self._talk(attempt))
        try:
            await asyncio.wait((talking, self._ended), return_when=asyncio.FIRST_COMPLETED)
            # Everything that it wrote is in the socket; only a process that it left behind keeps it open.
            await asyncio.wait((talking,), timeout=_LAST_WORDS_SECONDS)
            outcome = talking.result() if talking.done() else None
        finally:
            talking.cancel()
            await asyncio.wait((talking,))
        if outcome is not None:
            return outcome
        if not self._ended.done():
            self.kill()  # it has closed its socket, or says what nobody understands
        end = await asyncio.shield(self._ended)
        if not isinstance(end, Ended):
            raise end
        return died(attempt, end)

    def close(self) -> None:
        """It ends when its task does."""
        self._pipe.close()
        self._stacks.close()

    async def stack(self, attempt: Attempt) -> list[str]:
        """Where the attempt is that it runs, the outermost frame first."""
        return await self._stacks.ask(attempt.assignment.lease, coroutine=attempt.handler.is_coroutine)

    async def _talk(self, attempt: Attempt) -> Outcome | None:
        """Send the attempt, do what is asked, return the outcome. None when it ends or says something else."""
        loop = asyncio.get_running_loop()
        assignment = attempt.assignment
        with contextlib.suppress(OSError, WireError):
            await loop.sock_sendall(self._pipe, frame(WORK, encode(Work(assignment, attempt.bundle.queue))))
            while (said := await self._read_frame()) is not None:
                kind, body = said
                if kind == OUTCOME:
                    outcome = decode(Outcome, body)
                    return outcome if (outcome.id, outcome.lease) == (assignment.id, assignment.lease) else None
                if kind == PROGRESS:
                    self._surroundings.progress(assignment.lease, decode(Progress, body))
                elif kind == SUBMIT:
                    answer = await self._submit(decode(TaskMessage, body))
                    await loop.sock_sendall(self._pipe, frame(ANSWER, encode(answer)))
        return None

    async def _submit(self, message: TaskMessage) -> Answer:
        try:
            await asyncio.wrap_future(self._surroundings.submit(message))
        except BrokerError as error:
            return Answer(str(error) or type(error).__name__)
        return Answer()

    async def _read_frame(self) -> tuple[bytes, bytes] | None:
        header = await read(self._pipe, HEADER.size)
        if header is None:
            return None
        length, kind = HEADER.unpack(header)
        body = await read(self._pipe, length) if length <= self._longest else None
        return None if body is None else (kind, body)


async def stacks_of(running: Mapping[Attempt, Process]) -> dict[Attempt, list[str]]:
    """Where these attempts are, each asked of its process at the same time."""
    stacks = await asyncio.gather(*(process.stack(attempt) for attempt, process in running.items()))
    return dict(zip(running, stacks, strict=True))


def died(attempt: Attempt, end: Ended) -> Outcome:
    """The outcome of an attempt whose process died; it says so when that was for want of memory."""
    how = describe(end.status)
    policy = attempt.effective_policy
    limit = policy.memory_limit
    if limit is not None and end.memory >= _NEAR_LIMIT * limit:
        how = f"{how}; it had {mebibytes(end.memory)}, its memory_limit is {mebibytes(limit)}"
    elif end.status < 0:
        how = f"{how}, at {mebibytes(end.memory)} of memory"  # where it is short, the kernel kills
    return crashed(attempt, how)


def crashed(attempt: Attempt, how: str) -> Outcome:
    """The outcome of an attempt whose process died."""
    outcome = failure(attempt.assignment, ErrorKind.CRASHED, "ProcessDied", how)
    outcome.advice = advise(attempt.effective_policy, ErrorKind.CRASHED, Ended)
    return outcome


def describe(status: int) -> str:
    """How a process ended, from its exit code; that of a killed one is the negative number of the signal."""
    if status >= 0:
        return f"exit code {status} without a result"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"


async def read(pipe: socket.socket, count: int) -> bytes | None:
    """Exactly `count` bytes, or None when the other end is closed before that."""
    data = bytearray()
    while len(data) < count:
        chunk = await receive(pipe, min(count - len(data), 1 << 18))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


async def receive(pipe: socket.socket, count: int) -> bytes:
    """Some bytes; none when the other end is closed."""
    try:
        return await asyncio.get_running_loop().sock_recv(pipe, count)
    except ConnectionError:
        return b""

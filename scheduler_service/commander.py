"""Commander: has workers do what an operator says, and collects what they answer.

A client asks with a token of its own, and asks again with the same until it is told that it is over. The command is
given to the workers once; later questions only read what has come in::

    first question -> the change is written down -> Control to the workers concerned -> what is there by now
    WorkerAnswer (through the beat exchange, heard by the listener) -> kept under its token
    same question  -> what is there by now ... over: all have answered, or the deadline has passed

All of it is in memory and bounded. A scheduler that starts anew knows no token and gives the command again: each of
them may be given twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct, field

from common.administration import OPERATED, Change, Command, CommandAnswer, CommandAnswers
from common.broker import Publisher
from common.clocks import steady
from common.errors import BrokerError, PublishRefused
from common.topology import Topology
from common.wire import Control, ControlVerb, Message, WorkerAnswer, decode
from scheduler_service.asking import FORBIDDEN, Asker
from scheduler_service.fleet.directory import Directory

log = logging.getLogger(__name__)

COMMANDS: Final = 100
"""Commands that are remembered, the last ones."""
BYTES: Final = 8 * 1024 * 1024
"""Of the answers to one command; RabbitMQ 4 takes no message above 16 MiB."""
ALL_BYTES: Final = 32 * 1024 * 1024
"""Of the answers to all commands that are remembered."""
AT_ONCE: Final = 256 * 1024
"""Bytes of answers that are told before it is over: what is larger would be told again and again."""
LONGEST_SEND: Final = 5.0
"""Seconds to wait for the confirm of a command to one worker; other questions wait meanwhile."""
NAMED: Final = 10
"""Workers that an entry in the log of changes names."""


class _Given(Struct):
    """A command that was given.

    Attributes:
        at, deadline: monotonic seconds.
        awaited: the workers that have not answered.
        lost: those that never will: they cannot be reached.
        answers: by worker.
        size: bytes of the answers.
    """

    at: float
    deadline: float
    awaited: set[str]
    lost: set[str] = field(default_factory=set)
    answers: dict[str, CommandAnswer] = field(default_factory=dict)
    size: int = 0


class Commander:
    """Answers `Command`.

    Args:
        publisher: the publishing connection's publisher.
        topology: the names.
        directory: the live workers.
        record: writes a change down, and publishes it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        publisher: Publisher,
        topology: Topology,
        directory: Directory,
        *,
        record: Callable[[Change], Awaitable[None]],
        clock: Callable[[], float] = steady,
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        self._directory = directory
        self._record = record
        self._clock = clock
        self._given: dict[tuple[str, str], _Given] = {}
        """By user and token."""

    async def answer(self, asker: Asker, body: bytes) -> Message:
        """Give the command, unless it was given before, and tell what workers have answered by now."""
        ask = decode(Command, body)
        if not asker.administrator:
            return CommandAnswers(over=True, error=FORBIDDEN, forbidden=True)
        given = self._given.get((asker.user, ask.token))
        if given is None:
            if fault := _fault(ask):
                return CommandAnswers(over=True, error=fault)
            concerned = self._concerned(ask.workers)
            if isinstance(concerned, str):
                return CommandAnswers(over=True, error=concerned)
            await self._record(_change(ask, asker.user, concerned))
            given = self._remember((asker.user, ask.token), concerned, ask.within)
            await self._order(ask, given)
        return self._so_far(given)

    def heard(self, answer: WorkerAnswer) -> None:
        """A worker has answered; what is late, doubled or asked by nobody changes nothing."""
        for (_, token), given in self._given.items():
            if token == answer.token and answer.worker in given.awaited:
                self._take(given, answer)

    def _take(self, given: _Given, answer: WorkerAnswer) -> None:
        given.awaited.discard(answer.worker)
        taken = CommandAnswer(answer.worker, answer.data, answer.error, round(self._clock() - given.at, 4))
        size = len(bytes(answer.data)) + len(answer.error)
        room = BYTES - given.size
        if size > room or sum(other.size for other in self._given.values()) + size > ALL_BYTES:
            size = 0
            taken = CommandAnswer(answer.worker, error="its answer is too long: ask this worker alone")
        given.size += size
        given.answers[answer.worker] = taken

    def _concerned(self, wanted: Sequence[str] | None) -> list[str] | str:
        """The live workers that are meant, or what is wrong with that."""
        live = sorted(self._directory.workers)
        if not live:
            return "no worker is alive"
        if wanted is None:
            return live
        for beginning in wanted:
            if not beginning or not any(name.startswith(beginning) for name in live):
                return f"no live worker's id begins with {beginning!r}"
        return [name for name in live if any(name.startswith(beginning) for beginning in wanted)]

    def _remember(self, key: tuple[str, str], concerned: Iterable[str], within: float) -> _Given:
        now = self._clock()
        while len(self._given) >= COMMANDS:
            del self._given[next(iter(self._given))]
        given = self._given[key] = _Given(now, now + within, set(concerned))
        return given

    async def _order(self, ask: Command, given: _Given) -> None:
        message = Control(ask.verb, ask.token, slots=ask.slots, level=ask.level)
        # One by one, even when all are meant: who is gone is known at once, and nobody else obeys.
        timeout = min(ask.within, LONGEST_SEND)
        await asyncio.gather(*(self._send(message, worker, given, timeout) for worker in sorted(given.awaited)))

    async def _send(self, message: Control, worker: str, given: _Given, timeout: float) -> None:
        try:
            await self._publisher.publish(
                self._topology.control_exchange.name, f"worker.{worker}", message, persistent=False, timeout=timeout
            )
        except BrokerError as error:
            log.info("a worker was not told", extra={"worker": worker, "verb": message.verb, "reason": str(error)})
            if isinstance(error, PublishRefused):
                given.awaited.discard(worker)
                given.lost.add(worker)

    def _so_far(self, given: _Given) -> CommandAnswers:
        over = not given.awaited or self._clock() >= given.deadline
        answers: list[CommandAnswer] = []
        size = 0
        for answer in given.answers.values():
            size += len(bytes(answer.data))
            if size > AT_ONCE and not over:
                break
            answers.append(answer)
        told = {answer.worker for answer in answers}
        missing = (given.awaited | given.lost | given.answers.keys()) - told
        return CommandAnswers(sorted(answers, key=lambda answer: answer.worker), sorted(missing), over)


def _fault(ask: Command) -> str:
    if ask.verb not in OPERATED:
        return f"{ask.verb} is what the scheduler says by itself"
    if ask.verb is ControlVerb.SLOTS and ask.slots is None:
        return "say how many slots"
    if ask.verb is ControlVerb.LOG_LEVEL and ask.level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        return f"there is no log level {ask.level!r}; there are DEBUG, INFO, WARNING and ERROR"
    return ""


def _change(ask: Command, user: str, concerned: Sequence[str]) -> Change:
    named = ", ".join(concerned[:NAMED]) + (f" and {len(concerned) - NAMED} more" if len(concerned) > NAMED else "")
    more = f" {ask.slots}" if ask.verb is ControlVerb.SLOTS else f" {ask.level}" if ask.level else ""
    count = f"{len(concerned)} worker{'s' if len(concerned) != 1 else ''}"
    return Change(
        time.time(),
        user,
        "command",
        concerned[0] if len(concerned) == 1 else "",
        f"{ask.verb}{more} to {count}: {named}",
    )

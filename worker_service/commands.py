"""What operators tell this worker, and its answers.

They come by the control queue, from a scheduler that has checked who asks, and are answered through the beat exchange,
so that a worker needs no permission to write to anyone's queue. What cannot be done is answered with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from common.broker import Publisher
from common.errors import BrokerError
from common.wire import EMPTY_KWARGS, Control, ControlVerb, WorkerAnswer

MOST_AT_A_TIME: Final = 16
"""Commands under way; further ones are refused."""
_TIMEOUT: Final = 5.0

_log = logging.getLogger(__name__)

Answer = Mapping[str, Any] | msgspec.Struct
Verb = Callable[[Control], Awaitable[Answer]]


class CannotDo(Exception):
    """Why a command is not done, in a sentence."""


class Commands:
    """Does what commands say, several at a time, and answers each once.

    Args:
        worker: this worker's id.
        publisher: with a channel of its own.
        exchange: the beat exchange's name.
        verbs: what does each verb; may raise `CannotDo`.
    """

    def __init__(self, worker: str, publisher: Publisher, exchange: str, verbs: Mapping[ControlVerb, Verb]) -> None:
        self._worker = worker
        self._publisher = publisher
        self._exchange = exchange
        self._verbs = verbs
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Be ready."""

    async def drain(self) -> None:
        """Let the answers go that are under way, that to `shutdown` among them; a draining worker answers on."""
        if self._under_way:
            await asyncio.wait(list(self._under_way))

    async def stop(self) -> None:
        """Answer nothing more."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def take(self, message: Control) -> None:
        """Do it and answer, in the background."""
        if len(self._under_way) >= MOST_AT_A_TIME:
            _log.warning("a command is ignored, too many are under way", extra={"verb": message.verb.value})
            return
        self._begin(self._do(message))

    def refuse(self, token: str, reason: str) -> None:
        """Answer that a command cannot be understood."""
        if len(self._under_way) < MOST_AT_A_TIME:
            self._begin(self._answer(WorkerAnswer(self._worker, token, error=reason)))

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, name="command")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _do(self, message: Control) -> None:
        data, error = EMPTY_KWARGS, ""
        verb = self._verbs.get(message.verb)
        try:
            if verb is None:
                raise CannotDo(f"this worker does not know the command {message.verb.value!r}")
            data = Raw(msgspec.json.encode(await verb(message)))
        except CannotDo as reason:
            error = str(reason)
        except Exception as fault:  # noqa: BLE001 - the boundary: it must not end the worker, and the operator asks
            _log.exception("a command failed", extra={"verb": message.verb.value})
            error = f"{type(fault).__name__}: {fault}"[:500]
        _log.info("a command", extra={"verb": message.verb.value, "error": error})
        await self._answer(WorkerAnswer(self._worker, message.token, data, error))

    async def _answer(self, answer: WorkerAnswer) -> None:
        try:
            await self._publisher.publish(
                self._exchange, "answer", answer, persistent=False, mandatory=False, timeout=_TIMEOUT
            )
        except BrokerError as error:
            _log.warning("a command's answer was not confirmed", extra={"reason": str(error)})


async def ping(message: Control) -> Answer:
    """Answer."""
    return {"pid": os.getpid()}


async def log_level(message: Control) -> Answer:
    """Log from `level` on, in this process; those of task functions keep theirs.

    Raises:
        CannotDo: there is no level.
    """
    if not message.level:
        raise CannotDo("log-level needs a level: DEBUG, INFO, WARNING or ERROR")
    root = logging.getLogger()
    before = logging.getLevelName(root.level)
    root.setLevel(message.level)
    return {"level": message.level, "before": before}

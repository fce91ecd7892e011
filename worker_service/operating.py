"""What operators can have this worker do: the verbs that touch its parts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from common.wire import Control, ControlVerb, Load
from worker_service.commands import Answer, CannotDo, Verb, log_level, ping
from worker_service.counters import Counters
from worker_service.executor import Executor
from worker_service.stacks import StackReader


class Taking(Protocol):
    """A consumer that can be told to take nothing for a while."""

    async def pause(self) -> None:
        """Take nothing more."""

    async def resume(self) -> None:
        """Take again."""


class Resizable(Protocol):
    """What keeps the number of slots."""

    load: Load

    @property
    def slots(self) -> int:
        """How many tasks may run at a time now."""

    @property
    def capacity(self) -> int:
        """How many may when there is not too much load."""

    def resize(self, capacity: int) -> None:
        """Have another capacity from now on."""


class Operating:
    """The verbs, on the parts of one worker.

    Args:
        executor: what runs.
        consumers: those of the work queues.
        slots: how many there are.
        counters: what was done.
        stacks: reads where tasks are.
        unanswered: how many outcomes are not confirmed.
        ending: whether this worker is about to end.
        end: has it drain and end.
        changed: sends a beat.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        consumers: Sequence[Taking],
        slots: Resizable,
        counters: Counters,
        stacks: StackReader,
        unanswered: Callable[[], int],
        ending: Callable[[], bool],
        end: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._executor = executor
        self._consumers = consumers
        self._slots = slots
        self._counters = counters
        self._stacks = stacks
        self._unanswered = unanswered
        self._ending = ending
        self._end = end
        self._changed = changed
        self._started_at = time.monotonic()
        self._one_by_one = asyncio.Lock()

    @property
    def verbs(self) -> dict[ControlVerb, Verb]:
        """What does each verb."""
        return {
            ControlVerb.PING: ping,
            ControlVerb.STATS: self._stats,
            ControlVerb.STACKS: self._all_stacks,
            ControlVerb.DRAIN: self._drain,
            ControlVerb.RESUME: self._resume,
            ControlVerb.SLOTS: self._resize,
            ControlVerb.SHUTDOWN: self._shutdown,
            ControlVerb.LOG_LEVEL: log_level,
        }

    async def _stats(self, message: Control) -> Answer:
        return {
            "uptime": round(time.monotonic() - self._started_at, 1),
            "running": self._executor.running,
            "waiting": self._executor.waiting,
            "unanswered": self._unanswered(),
            "slots": self._slots.slots,
            "capacity": self._slots.capacity,
            "paused": self._executor.paused,
            "load": self._slots.load,
            **self._counters.as_data(),
        }

    async def _all_stacks(self, message: Control) -> Answer:
        return await self._stacks.all()

    async def _drain(self, message: Control) -> Answer:
        async with self._one_by_one:
            self._refuse_at_the_end()
            # First this: the beat that says so has to go before what it gives back is dispatched anew.
            self._executor.pause()
            self._changed()
            await asyncio.gather(*(consumer.pause() for consumer in self._consumers))
        return {"paused": True, "running": self._executor.running}

    async def _resume(self, message: Control) -> Answer:
        async with self._one_by_one:
            self._refuse_at_the_end()
            self._executor.resume()
            await asyncio.gather(*(consumer.resume() for consumer in self._consumers))
            self._changed()
        return {"paused": False}

    async def _resize(self, message: Control) -> Answer:
        if message.slots is None:
            raise CannotDo("slots needs a number of slots, from 1 to 10,000")
        self._refuse_at_the_end()
        before = self._slots.capacity
        self._slots.resize(message.slots)
        return {"capacity": self._slots.capacity, "slots": self._slots.slots, "before": before}

    async def _shutdown(self, message: Control) -> Answer:
        if not self._ending():  # asking twice would cut the drain short
            self._end()
        return {"running": self._executor.running}

    def _refuse_at_the_end(self) -> None:
        if self._ending():
            raise CannotDo("this worker is about to end")

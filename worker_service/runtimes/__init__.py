"""Where attempts run: in an event loop of their own, in threads, or each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from common.wire import Outcome
from worker_service.attempts import Attempt

Done = tuple[Attempt, Outcome]
Finished = Callable[[Sequence[Done]], None]
"""Told, in the main event loop, which attempts have ended and how."""
Missed = Callable[[float], bool]
"""Whether what was given to a runtime at this moment has a pause behind it, so that it must not be begun any more."""


class Runtime(Protocol):
    """One way of running attempts."""

    async def start(self) -> None:
        """Be ready to run."""

    def run(self, attempts: Sequence[Attempt]) -> None:
        """Start `attempts`; each has a slot. Returns at once; `Finished` hears of each exactly once."""

    def interrupt(self, attempt: Attempt) -> None:
        """Raise `TaskTimeout` in it. Nothing happens when it has ended."""

    def cancel(self, attempt: Attempt) -> None:
        """Nobody wants its result: end it where that can be done, else let it know."""

    def end(self, attempt: Attempt) -> None:
        """Its hard timeout is over: end it by all means there are."""

    def abandon(self, attempt: Attempt) -> None:
        """It does not end: its slot is used for others from now on."""

    async def stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        """Where these are that run, each with its outermost frame first; what has ended meanwhile is left out."""

    async def stop(self) -> None:
        """Abandon what still runs; `Finished` hears nothing more."""


__all__ = ["Done", "Finished", "Missed", "Runtime"]

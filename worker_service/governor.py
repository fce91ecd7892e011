"""How many tasks a worker may run at a time, lowered while it has too much to bear. Pure: no clock and no I/O.

Down at each look while it is too much, by a quarter of what runs, so that lowering what was never used is not mistaken
for relief. Up by a tenth of the capacity, after a few quiet looks, and only below nine tenths of the bound: a worker
that is on the edge stays there and does not swing. Never below one: with a leak it would never run anything again.
"""

from __future__ import annotations

from typing import Final

DOWN: Final = 0.75
UP: Final = 0.1
RELIEF: Final = 0.9
"""Part of a bound below which it is no longer near."""
QUIET_LOOKS: Final = 3
"""Looks below that, one after another, before the next step up."""
_MIB: Final = 1024 * 1024


class Governor:
    """Decides at each look.

    Args:
        capacity: slots without any load.
        memory_high: bytes; 0 for no bound.
        loop_lag_high: seconds; 0 for no bound.

    Attributes:
        slots: how many tasks may run at a time now.
        lowered: why that is fewer than the capacity; empty when it is not.
    """

    def __init__(self, capacity: int, memory_high: int, loop_lag_high: float) -> None:
        self.capacity = capacity
        self.slots = capacity
        self.lowered = ""
        self._memory_high = memory_high
        self._loop_lag_high = loop_lag_high
        self._quiet = 0

    def resize(self, capacity: int) -> None:
        """Have another capacity from now on; what has been lowered stays lowered, but not above it."""
        self.slots = min(self.slots, capacity) if self.lowered else capacity
        self.capacity = capacity
        self._settle()

    def look(self, memory: int, loop_lag: float, running: int) -> bool:
        """Judge the present load. Returns whether `slots` has changed.

        Args:
            memory: bytes.
            loop_lag: seconds.
            running: how many tasks run.
        """
        before = self.slots
        if why := self._excess(memory, loop_lag, 1.0):
            self._quiet = 0
            self.lowered = why
            self.slots = max(1, int(min(self.slots, running) * DOWN))
        elif self._excess(memory, loop_lag, RELIEF):
            self._quiet = 0
        elif self.slots < self.capacity:
            self._quiet += 1
            if self._quiet >= QUIET_LOOKS:
                self._quiet = 0
                self.slots = min(self.capacity, self.slots + max(1, int(self.capacity * UP)))
        self._settle()
        return self.slots != before

    def _settle(self) -> None:
        if self.slots >= self.capacity:
            self.slots = self.capacity
            self.lowered = ""

    def _excess(self, memory: int, loop_lag: float, part: float) -> str:
        """What is above this part of its bound, in words."""
        if self._memory_high and memory > self._memory_high * part:
            return f"memory is {memory / _MIB:,.0f} MiB, memory_high is {self._memory_high / _MIB:,.0f} MiB"
        if self._loop_lag_high and loop_lag > self._loop_lag_high * part:
            return f"the event loop is {loop_lag:.2f} s late, loop_lag_high is {self._loop_lag_high:g} s"
        return ""

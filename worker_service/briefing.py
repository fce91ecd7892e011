"""What was dispatched before this worker could hear is not its to run.

Control messages reach those who listen, and are kept for nobody. A worker that comes, or comes back, has heard no
cancel of what waits in its queue; one that stood still has not heard it yet. So it asks, in its beats, for the mark:
the number of the next dispatch. What was dispatched before it goes back (`returned`, away), and comes anew if it is
still to be done; of what is dispatched after it, this worker hears everything::

    listens to control ──> beats that ask ──> the mark ──> consumes: dispatches from the mark on are run

Until it is told it takes nothing. With no scheduler to tell it there is nobody either to dispatch anything, so only
what was in the queue by then waits longer: to run it could be wrong, to leave it where it is is safe.
"""

from __future__ import annotations

import asyncio
import math


class Briefing:
    """What this worker knows of the dispatches before it could hear."""

    def __init__(self) -> None:
        self._mark = math.inf
        self._told = asyncio.Event()
        self._doubted = False
        self._absences = 0

    @property
    def complete(self) -> bool:
        """Whether it was told."""
        return self._told.is_set()

    @property
    def asking(self) -> str:
        """The token with which the beats are to ask; empty when they need not."""
        return str(self._absences) if self._doubted or not self.complete else ""

    def begin(self) -> None:
        """From now on nothing is known: something may be missed, or was."""
        self._absences += 1
        self._mark = math.inf
        self._told.clear()

    def tell(self, token: str, mark: int) -> None:
        """The next dispatch has this number, says the answer to the question with this token.

        One to an earlier question may have been under way during a pause, and knows nothing of it. Numbers grow; a
        lower one is that of a scheduler whose store was lost or put back, which counts from there.
        """
        if token != str(self._absences):
            return
        self._mark = min(self._mark, mark)
        self._doubted = False
        self._told.set()

    async def wait(self) -> None:
        """Wait until it was told."""
        await self._told.wait()

    def precedes(self, number: int) -> bool:
        """Whether the dispatch with this number was before this worker could hear.

        One that comes although it was told is asked about again: so no mark is too high for long.
        """
        if number >= self._mark:
            return False
        self._doubted = self.complete
        return True

"""Who has the places of workers that several queues share: whoever is furthest behind in time had or handed out.

A *place* is a slot, or one of the few more tasks that are out so that no slot is free for long. What is out runs in the
order in which workers happened to take it, and which queue that favours is not ours to decide. But each task that goes
out runs, so the shares of what goes out are the shares of what runs. Thus each place goes to the queue with the lowest
*tag*, and then counts as taken for as long as a task of it is expected to run::

    tag = (expected seconds of what is out - seconds that it is behind) / share

These are the start tags of start-time fair queueing (Goyal, Vin and Cheng, 1996), with one difference: when a task is
over, what it took in truth counts in place of what was expected. So an expectation that is wrong changes when a queue
has its time, and not how much. Nobody waits for a queue that can take no more: the next one has the place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Final

from msgspec import Struct

from scheduler_service.fleet.shares import Group

PARTS: Final = 64
"""Of many places, a 64th is given at a time."""
_EPSILON: Final = 1e-9


class Claim(Struct, gc=False):
    """What a queue may have.

    Attributes:
        queue: its name.
        share: the slots that are due to it.
        lead: places beyond slots that it brings along.
        lag: slot-seconds that were due to it and that it did not have.
        out: how many of its tasks are out.
        wants: how many more could go.
        most: how many may be out.
        run: seconds that one is expected to take.
        probed: it is time to see how long the path is, so no more than slots are to be out.
        given: how many places it has been given.
    """

    queue: str
    share: float
    lead: float
    lag: float
    out: int
    wants: int
    most: int
    run: float
    probed: bool = False
    given: int = 0

    @property
    def room(self) -> int:
        """How many more it could use."""
        return min(self.wants - self.given, self.most - self.out - self.given) if self.share > 0 else 0

    @property
    def tag(self) -> tuple[bool, float]:
        """Its turn: the lower goes first. What it has of whole slots is never taken from it."""
        out = self.out + self.given
        return out >= int(self.share + _EPSILON), (out * self.run - self.lag) / self.share


def hand_out(claims: Sequence[Claim], groups: Sequence[Group]) -> dict[str, int]:
    """Give the places that are free; how many each queue has of them.

    Args:
        claims: of all queues that these workers serve, also of those that want nothing more.
        groups: the workers.
    """
    if any(claim.room > 0 for claim in claims):
        for numbers in connected(groups):
            served = frozenset[str]().union(*(groups[number].queues for number in numbers))
            sharing = [claim for claim in claims if claim.queue in served]
            _give(sharing, _Free(sharing, groups, numbers))
    return {claim.queue: claim.given for claim in claims}


def connected(groups: Sequence[Group]) -> list[list[int]]:
    """The numbers of the groups that have queues in common, with one another or through others."""
    found: list[tuple[frozenset[str], list[int]]] = []
    for number, group in enumerate(groups):
        queues, numbers = group.queues, [number]
        apart = []
        for other in found:
            if queues.isdisjoint(other[0]):
                apart.append(other)
            else:
                queues, numbers = queues | other[0], other[1] + numbers
        found = [*apart, (queues, numbers)]
    return [numbers for _, numbers in found]


def _give(claims: Sequence[Claim], free: _Free) -> None:
    part = max(1, int(free.whole) // PARTS)
    hungry = [claim for claim in claims if claim.room > 0]
    heap = [(claim.tag, number) for number, claim in enumerate(hungry)]
    heapify(heap)
    # Not while the path is probed, else more would always be out than slots if there are more queues than those.
    early = any(not claim.probed or claim.out > math.ceil(claim.share - _EPSILON) for claim in claims)
    first = True
    while heap:
        _, number = heappop(heap)
        claim = hungry[number]
        room = min(claim.room, part, free.of(claim))
        if room <= 0 and first and early and not claim.out:
            room = 1  # others have more than their share still: the next slot that becomes free is not free for long
        first = False
        if room > 0:
            claim.given += room
            free.take(claim, room)
            if claim.room > 0:
                heappush(heap, (claim.tag, number))


class _Free:
    """The places that nobody has.

    Where a task runs that several groups of workers could take is not known, nor does it matter while it is short:
    there are so many places, and whoever has them makes room for others elsewhere. But what waits for some workers,
    however much it is, must not leave others idle: places of a group that nothing of what is out could fill are free.
    """

    def __init__(self, claims: Sequence[Claim], groups: Sequence[Group], numbers: Sequence[int]) -> None:
        self._reach = {
            claim.queue: [each for each in numbers if claim.queue in groups[each].queues] for claim in claims
        }
        self._near = {number: float(groups[number].slots) for number in numbers}
        self.whole = sum(self._near.values())
        for claim in claims:
            self._add(claim, claim.lead - claim.out)

    def of(self, claim: Claim) -> int:
        """The places that a queue may be given."""
        return int(max(self.whole, *(self._near[number] for number in self._reach[claim.queue])) + _EPSILON)

    def take(self, claim: Claim, count: int) -> None:
        """A queue has been given so many."""
        self._add(claim, -count)

    def _add(self, claim: Claim, count: float) -> None:
        self.whole += count
        for number in self._reach[claim.queue]:
            self._near[number] += count

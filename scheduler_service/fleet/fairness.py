"""Fair queueing between the fairness keys of one queue and priority: weighted round robin with a deficit.

Each flow (the tasks of one key) has a *virtual time*, which moves on by ``1 / weight`` for each of its tasks that
goes; the flow whose virtual time is least has its turn (start-time fair queueing: Goyal, Vin and Cheng, 1996). So what
a flow got too little or too much of is made up for, as by the deficits of a round robin, and at the same price whatever
the weights and the number of flows.

A flow that comes anew begins a little before the virtual time of the level, by the *credit*: who has waited for nothing
so far has the next few slots, so that ten tasks of a small tenant do not queue behind each second one of a large. So
many of its tasks are *ahead*. But one that went just now goes on where it was, so nobody gains by coming and going:
over any time a flow has at most its share and one credit.

A flow that may not go is *parked*, and is looked at again when the reason may have passed; until then it costs nothing
and holds up nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from msgspec import Struct

from scheduler_service.fleet.lanes import Lane

REMEMBERED: Final = 10_000
"""Flows without tasks of which it is remembered that they had their share a moment ago: those that left last."""
_SLACK: Final = 64

_tickets = count(1)


class Waiting(Struct, eq=False):
    """The queued tasks of one lane.

    Attributes:
        lane: which.
        count: how many are queued.
        planned: how many of these are about to be claimed from this lane alone.
        oldest: when the oldest was due, seconds since the epoch, as far as known.
    """

    lane: Lane
    count: int = 0
    planned: int = 0
    oldest: float | None = None

    @property
    def free(self) -> int:
        """How many nobody claims from this lane alone yet."""
        return self.count - self.planned


class Flow(Struct, eq=False):
    """The queued tasks of one key, at one priority of one queue.

    Attributes:
        key: the fairness key.
        lanes: its lanes, by number.
        virtual: its virtual time.
        ahead: how many of its next tasks go before the others because it came anew.
        count: its queued tasks.
        planned: how many of these are about to be claimed from several of its lanes together.
        parked: it may not go.
        ticket: tells the entry of a heap that is right from older ones.
        turn: which of its groups of lanes goes first the next time.
    """

    key: str
    lanes: dict[int, Waiting]
    virtual: float
    ahead: int = 0
    count: int = 0
    planned: int = 0
    parked: bool = False
    ticket: int = 0
    turn: int = 0

    @property
    def priority(self) -> int:
        """That of all its lanes."""
        return next(iter(self.lanes.values())).lane.priority


_Entry = tuple[float, int, Flow]


def _weigh_alike(_key: str) -> float:
    return 1.0


class FairQueue:
    """The flows of one queue and priority.

    Args:
        weigh: the weight of a key, above 0.
    """

    def __init__(self, weigh: Callable[[str], float] = _weigh_alike) -> None:
        self._weigh = weigh
        self.flows: dict[str, Flow] = {}
        self.credit = 0.0
        """How many tasks a flow of weight 1 that comes anew has ahead of the others."""
        self.parked_tasks = 0
        """How many tasks are in flows that are parked."""
        self.aged = (0.0, 0.0)
        """When the age of the level was last reckoned, and since when its oldest task waits (`ageing`)."""
        self._parked_flows = 0
        self._virtual = 0.0
        self._ready: list[_Entry] = []
        self._parked: dict[Hashable, list[_Entry]] = {}
        self._gone: OrderedDict[str, float] = OrderedDict()

    @property
    def going(self) -> int:
        """How many flows may go, as far as is known."""
        return len(self.flows) - self._parked_flows

    @property
    def reasons(self) -> Collection[Hashable]:
        """The reasons under which flows are parked, those of a single key left out."""
        return self._parked

    def add(self, waiting: Waiting, count: int) -> None:
        """`count` more tasks of a lane wait, or fewer; at 0 the lane is taken out, and its flow with its last lane."""
        lane = waiting.lane
        flow = self.flows.get(lane.key)
        if flow is None:
            flow = self.flows[lane.key] = self._enter(lane.key)
        if lane.number not in flow.lanes:
            flow.lanes[lane.number] = waiting
            self.wake(flow)
        waiting.count += count
        waiting.planned = min(waiting.planned, waiting.count)
        flow.count += count
        flow.planned = min(flow.planned, flow.count)
        if flow.parked:
            self.parked_tasks += count
        if waiting.count == 0:
            del flow.lanes[lane.number]
            if not flow.lanes:
                self._leave(flow)

    def first(self, passed: Iterable[Hashable] = ()) -> Flow | None:
        """The flow whose turn it is; None when none may go.

        Args:
            passed: reasons that have passed for the moment: the flows parked under them count, too.
        """
        best = self._top(self._ready)
        for reason in passed:
            heap = self._parked.get(reason)
            top = self._top(heap) if heap is not None else None
            if top is None:
                self._parked.pop(reason, None)
            elif best is None or top.virtual < best.virtual:
                best = top
        if best is not None:
            self.wake(best)
        return best

    def first_ahead(self) -> Flow | None:
        """The flow whose turn it is, if it is one that came anew and has tasks ahead; parked ones are left out."""
        first = self._top(self._ready)
        return first if first is not None and first.ahead >= 1 else None

    def ahead_of_all(self, key: str) -> int:
        """How many tasks of `key` would go before all others if they came now, as the first of their key."""
        virtual = max(self._gone.get(key, float("-inf")), self._start(key))
        first = self._top(self._ready)
        if key in self.flows or (first is not None and first.virtual < virtual):
            return 0
        return round((self._virtual - virtual) * self._weigh(key))

    def pass_by(self, key: str, count: int) -> None:
        """`count` tasks of `key`, of which none waits, go as they come (`ahead_of_all`)."""
        flow = self.flows[key] = self._enter(key)
        self.charge(flow, count)
        self._leave(flow)

    def charge(self, flow: Flow, count: int) -> None:
        """`count` tasks of `flow` go."""
        step = 1 / self._weigh(flow.key)
        flow.ahead -= count
        self._virtual = max(self._virtual, flow.virtual + (count - 1) * step)
        flow.virtual += count * step
        self._push(self._ready, flow)

    def park(self, flow: Flow, reasons: Iterable[Hashable] = ()) -> None:
        """`flow` may not go until one of `reasons` has passed, or it is woken."""
        flow.parked = True
        flow.ticket = next(_tickets)
        self._parked_flows += 1
        self.parked_tasks += flow.count
        for reason in set(reasons):
            heap = self._parked.setdefault(reason, [])
            self._push(heap, flow, flow.ticket)

    def wake(self, flow: Flow) -> None:
        """`flow` may go again, perhaps."""
        if flow.parked:
            flow.parked = False
            self._parked_flows -= 1
            self.parked_tasks -= flow.count
            self._push(self._ready, flow)

    def wake_all(self) -> None:
        """Every flow may go again, perhaps."""
        if self._parked_flows:
            for flow in self.flows.values():
                flow.parked = False
            self._parked_flows = self.parked_tasks = 0
            self._ready = [(flow.virtual, flow.ticket, flow) for flow in self.flows.values()]
            heapify(self._ready)
        self._parked.clear()

    def _enter(self, key: str) -> Flow:
        virtual = max(self._gone.pop(key, float("-inf")), self._start(key))
        flow = Flow(key, {}, virtual, round((self._virtual - virtual) * self._weigh(key)))
        self._push(self._ready, flow)
        return flow

    def _start(self, key: str) -> float:
        return self._virtual - self.credit / self._weigh(key)

    def _leave(self, flow: Flow) -> None:
        self.wake(flow)
        flow.ticket = 0
        del self.flows[flow.key]
        if flow.virtual > self._start(flow.key):
            if len(self._gone) >= REMEMBERED:
                self._gone.popitem(last=False)
            self._gone[flow.key] = flow.virtual

    def _push(self, heap: list[_Entry], flow: Flow, ticket: int | None = None) -> None:
        # Entries are not sought out when they are out of date, so their number has to be bounded here.
        if len(heap) > _SLACK + 4 * len(self.flows):
            heap[:] = [entry for entry in heap if entry[2].ticket == entry[1]]
            heapify(heap)
        flow.ticket = next(_tickets) if ticket is None else ticket
        heappush(heap, (flow.virtual, flow.ticket, flow))

    @staticmethod
    def _top(heap: list[_Entry]) -> Flow | None:
        while heap:
            _, ticket, flow = heap[0]
            if flow.ticket == ticket:
                return flow
            heappop(heap)
        return None

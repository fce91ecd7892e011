"""Dispatcher: claims what may go, in the order of `fleet.turns`, and hands it to the sender.

The lease is committed before the publish. The store's mark says up to which dispatch the broker has confirmed; on
start, what lies above it is published again::

    plan -> reserve room -> commit (state, lease, number) -> settle -> publish ... confirm -> the mark moves up

What operators change counts from the next plan on, and a change wakes the loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from common.background import Background, Report
from common.backoff import reconnect_wait
from common.clocks import steady
from common.errors import StoreError
from common.quotas import Quota, Scope
from common.states import Rules, State
from scheduler_service import operations
from scheduler_service.fleet import lanes
from scheduler_service.fleet.backlog import Backlog, Found
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.lanes import Lane
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.fleet.turns import Turns
from scheduler_service.operations import Claimed, Ended, Outset
from scheduler_service.sender import Sender
from scheduler_service.storage.claims import ClaimedTask, Turn
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.quotas import Used
from scheduler_service.storage.store import Store
from scheduler_service.storage.tasks import Placement

log = logging.getLogger(__name__)

LEAP = 1_000_000_000
"""The numbers of a new start begin this far above the mark that was stored last, so that none was given before, also to
a dispatch that was cancelled since: workers go by them (`worker_service.briefing`). The mark stands still while one
bundle cannot be published; this is more than a day of everything else."""
LONGEST_RETRY = 5.0
"""Seconds between two tries at most to claim."""
IDLE = 0.5
"""Seconds without work after which the mark is written by itself."""
CLAIM = 1000
"""Tasks of one queue claimed in one transaction at most."""


class Dispatcher:
    """Decides what goes, and claims it.

    Args:
        store: where the backlog is.
        sender: who publishes.
        flights: what is out.
        rooms: how much more may be.
        backlog: the numbers of what is queued.
        ledger: the quotas, and what was used of them.
        turns: decides whose turn it is.
        rules: the limits of the transition function.
        ended: given tasks whose turn came after their time.
        report: told when the loop dies.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        sender: Sender,
        flights: Flights,
        rooms: Rooms,
        backlog: Backlog,
        ledger: Ledger,
        turns: Turns,
        rules: Rules,
        *,
        ended: Callable[[Sequence[Ended]], None],
        report: Report,
        clock: Callable[[], float] = steady,
    ) -> None:
        self._store = store
        self._sender = sender
        self._flights = flights
        self._rooms = rooms
        self._backlog = backlog
        self._ledger = ledger
        self._turns = turns
        self._rules = rules
        self._ended = ended
        self._clock = clock
        self._wake = asyncio.Event()
        self._doubtful = False
        self._mark_at_rest = 0
        self._spans: tuple[int, dict[tuple[str, str], float]] = (-1, {})
        self._loop = Background("dispatch", self._run, report)

    @property
    def backlog(self) -> Mapping[str, int]:
        """Queued tasks by queue, as far as known; exact after each claim that found fewer than it wanted."""
        return self._backlog.totals()

    @property
    def mark(self) -> int:
        """Up to which dispatch the broker has confirmed."""
        return self._flights.confirmed_up_to

    @property
    def in_doubt(self) -> bool:
        """Whether something may be out in the store of which nothing is known here yet."""
        return self._doubtful

    @property
    def spans(self) -> Mapping[tuple[str, str], float]:
        """The seconds of each rate's span, by scope and name."""
        if self._spans[0] != self._ledger.version:
            rates = ((quota, quota.rate) for quota in self._ledger.quotas())
            spans = {(quota.scope.value, quota.name): rate.per for quota, rate in rates if rate is not None}
            self._spans = (self._ledger.version, spans)
        return self._spans[1]

    async def start(self) -> None:
        """Read what is out and what is queued; publish again what the broker may not have; start the loop."""
        if self._loop.running:
            return
        outset = await self._store.run(operations.outset, time.time())
        self._take_quotas(outset)
        self._take_backlog(outset)
        self._flights.start_from(outset.confirmed + LEAP)
        unsure = self._adopt(outset, outset.confirmed)
        self._recall(outset.used, unsure)
        if outset.dispatched:
            log.info("tasks were out", extra={"count": len(outset.dispatched), "published_again": len(unsure)})
        self._loop.start()
        self._sender.send(unsure, launched=True)
        self.wake()

    async def drain(self) -> None:
        """Dispatch no more."""
        await self._loop.stop()

    async def stop(self) -> None:
        """Dispatch no more."""
        await self._loop.stop()

    def knows(self, queue: str) -> bool:
        """Whether there ever was a task for `queue`."""
        return self._sender.knows(queue)

    def admits(self, queue: str) -> bool:
        """Whether `queue` is known or one more may be made."""
        return self._sender.admits(queue)

    def lane(self, queue: str, priority: int, task: str, key: str, requires: Sequence[str], coming: int = 0) -> Lane:
        """The lane under which such a task is stored; `coming` lanes of the same batch are not counted yet."""
        return self._backlog.place(lanes.lane(queue, priority, task, key, requires), coming)

    def lane_number(self, queue: str, priority: int, task: str, key: str, requires: Sequence[str]) -> int:
        """The number of that lane. The store's thread may ask, too: it only reads."""
        return self.lane(queue, priority, task, key, requires).number

    def room(self, queue: str) -> int:
        """How many more tasks of `queue` may be out."""
        return self._rooms.room(queue, self._clock())

    def place(self, lane: Lane, count: int) -> list[Placement]:
        """Room for up to `count` tasks that may go at once; say with `placed` or `doubt` what became of it."""
        if self._doubtful:
            return []
        now = self._clock()
        admitted = self._turns.admit(lane, count, now)
        if admitted > 0:
            return self._flights.reserve(lane.queue, admitted, lane.priority)
        workers = Counter(self._turns.admit_express(lane, count, now))
        return [
            placement
            for worker, part in workers.items()
            for placement in self._flights.reserve(lane.queue, part, lane.priority, worker, express=True)
        ]

    def placed(self, lane: Lane, stored: int, unused: Sequence[Placement]) -> None:
        """So many tasks that had room are stored, and go to `send`; for the others there is no task after all."""
        self._turns.admitted(lane, stored, len(unused), self._clock())
        if unused:
            self._flights.release(lane.queue, unused)

    def send(self, claimed: Sequence[ClaimedTask]) -> None:
        """Publish committed dispatches."""
        self._sender.send(claimed)

    def queued(self, lane: Lane, count: int, since: float | None = None) -> None:
        """`count` more tasks of `lane` are in the store; fewer when it is negative.

        Args:
            lane: as the store numbers it.
            count: how many.
            since: when the oldest of them was due, seconds since the epoch.
        """
        self._backlog.add(self._resolved(lane), count, since)
        self._wake.set()

    def moved(self, moved: Sequence[Moved]) -> None:
        """Tasks have been moved; what is queued of them waits in another lane."""
        queued = [each for each in moved if each.stored.task.state is State.QUEUED]
        for lane, count in Counter(lanes.lane_of(each.stored) for each in queued).items():
            self.queued(lane, -count)
        for lane, count in Counter(lanes.lane_after(each) for each in queued).items():
            self.queued(lane, count, min(each.stored.submitted_at for each in queued if each.lane == lane.number))

    def limit(self, quota: Quota) -> None:
        """Let a quota that is stored count from now on."""
        self._ledger.set(quota)
        self._wake.set()

    def doubt(self, lane: Lane, placements: Sequence[Placement]) -> None:
        """Their transaction may or may not have been committed: look in the store for what it dispatched."""
        if placements:
            self._turns.doubt_admitted(lane, len(placements), self._clock())
            self._flights.doubt(lane.queue, placements)
        self.recount()

    def recount(self) -> None:
        """A transaction may or may not have been committed: look in the store for what is queued and out."""
        self._doubtful = True
        self._wake.set()

    def wake(self) -> None:
        """Room may have opened: workers came, tasks finished."""
        self._wake.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            woken = await self._woken()
            try:
                if not woken:
                    await self._write_mark()
                    continue
                if self._doubtful:
                    await self._find_strays()
                while await self._claim():
                    pass
                failures = 0
            except StoreError as error:
                if failures == 0:
                    log.warning("dispatch waits for the store", extra={"reason": str(error)})
                await asyncio.sleep(min(LONGEST_RETRY, reconnect_wait(failures)))
                failures += 1

    async def _woken(self) -> bool:
        """Wait for something to do; False when nothing has come for a while."""
        again = self._turns.again_at
        wait = IDLE if again is None else again - self._clock()
        try:
            async with asyncio.timeout(max(0.0, min(IDLE, wait))):
                await self._wake.wait()
        except TimeoutError:
            return wait < IDLE
        self._wake.clear()
        return True

    async def _write_mark(self) -> None:
        # Confirms after the last transaction would be forgotten by a kill, and their bundles published again.
        if self.mark != self._mark_at_rest:
            mark = self.mark
            await self._store.run(operations.write_mark, mark)
            self._mark_at_rest = mark

    async def _claim(self) -> bool:
        """Claim once for all whose turn it is; False when there was nothing to do."""
        turns = self._turns.plan(self._clock(), time.time(), CLAIM)
        if not turns:
            return False
        reserved = [
            self._flights.reserve(turn.queue, turn.count, turn.lanes[0].priority, turn.worker, express=turn.express)
            for turn in turns
        ]
        wanted = [
            Turn([lane.number for lane in turn.lanes], placements, turn.worker, turn.express)
            for turn, placements in zip(turns, reserved, strict=True)
        ]
        try:
            claimed = await self._store.run(operations.claim, wanted, self.spans, self._rules, self.mark, time.time())
        except BaseException:
            for turn, placements in zip(turns, reserved, strict=True):
                self._turns.doubt(turn, self._clock())
                self._flights.doubt(turn.queue, placements)
            self.recount()
            raise
        now = self._clock()
        # Answers of the store come in the order of its transactions, so each change is counted once, in order;
        # and when fewer were found than wanted, none is left.
        for turn, placements, each in zip(turns, reserved, claimed, strict=True):
            self._flights.release(turn.queue, _unused(placements, each))
            self._turns.settle(turn, each.found, Counter(task.lane for task in each.tasks), now, _last_due(each))
        self._sender.send([task for each in claimed for task in each.tasks])
        self._ended([ended for each in claimed for ended in each.ended])
        return True

    async def _find_strays(self) -> None:
        doubts = self._flights.doubts()
        outset = await self._store.run(operations.outset, time.time())
        # Answers of the store come in the order of its transactions: whatever was committed before is counted by now.
        self._flights.retain(outset.dispatched, self._clock())
        self._take_quotas(outset)
        strays = self._adopt(outset, -1)
        self._recall((), strays)
        self._flights.settle_doubts(doubts)
        self._doubtful = bool(self._flights.doubts())
        self._take_backlog(outset)
        self._sender.send(strays, launched=True)

    def _adopt(self, outset: Outset, confirmed: int) -> list[ClaimedTask]:
        flights = self._flights.by_lease
        leases = [task.assignment.lease for task in outset.dispatched if task.assignment.lease not in flights]
        unsure = self._flights.adopt(outset.dispatched, confirmed, self._clock())
        for lease in leases:
            lane = flights[lease].lane
            if lane is not None:
                self._ledger.adopt(lane)
        return unsure

    def _recall(self, used: Sequence[Used], late: Sequence[ClaimedTask]) -> None:
        """Count for the rates what went lately; `late` goes only now, though its transaction was earlier."""
        now, wall = self._clock(), time.time()
        counts = Counter(
            limited
            for task in late
            for limited in ((Scope.QUEUE, task.queue), (Scope.TASK, task.assignment.task), (Scope.KEY, task.key))
        )
        left = Counter(counts)
        gone: list[tuple[Used, int]] = []
        for each in reversed(used):
            moved = min(each.count, left[each.scope, each.name])
            left[each.scope, each.name] -= moved
            gone.append((each, each.count - moved))
        for each, count in reversed(gone):
            if count:
                self._ledger.recall_used(each.scope, each.name, count, wall - each.at, now)
        for (scope, name), count in counts.items():
            self._ledger.recall_used(scope, name, count, 0.0, now)

    def _take_backlog(self, outset: Outset) -> None:
        self._backlog.replace(
            Found(
                self._resolved(Lane(each.number, each.queue, each.priority, each.task, each.key, each.requires)),
                each.count,
                each.oldest,
            )
            for each in outset.backlog
        )

    def _take_quotas(self, outset: Outset) -> None:
        stored = {(quota.scope, quota.name): quota for quota in outset.quotas}
        for known in self._ledger.quotas():
            stored.setdefault((known.scope, known.name), Quota(scope=known.scope, name=known.name))
        for quota in stored.values():
            if self._ledger.quota(quota.scope, quota.name) != quota:
                self._ledger.set(quota)

    def _resolved(self, lane: Lane) -> Lane:
        actual = lanes.lane(lane.queue, lane.priority, lane.task, lane.key, lane.requires)
        return self._backlog.resolve(lane.number, actual)


def _unused(placements: Sequence[Placement], claimed: Claimed) -> Sequence[Placement]:
    """The placements for which there was no task after all."""
    if len(claimed.tasks) == len(placements):
        return ()
    used = {task.number for task in claimed.tasks}
    return [placement for placement in placements if placement.number not in used]


def _last_due(claimed: Claimed) -> dict[int, float]:
    """When the last task that was claimed of each lane was due."""
    return {task.lane: task.submitted_at for task in claimed.tasks}

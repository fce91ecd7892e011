"""Queue reporter: tells operators and Prometheus how the queues are: depth, traffic, limits, what it would take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Final

from common.administration import ListQueues, QueueReport, Queues
from common.clocks import steady, wall
from common.quotas import Quota, Scope
from common.wire import Message, decode
from scheduler_service.asking import Asker
from scheduler_service.fleet.backlog import Backlog
from scheduler_service.fleet.capability import Capability, Serves
from scheduler_service.fleet.directory import Directory, Worker
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.reasons import Reasons
from scheduler_service.fleet.restraint import Restraint, restraint
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.fleet.scaling import DEFAULT_SLOTS, OVERHEAD, Demand, drain_seconds, recommended_workers
from scheduler_service.fleet.traffic import Flow, Traffic

SHOWN: Final = 10_000
"""Queues in one answer; more than may exist."""
LOOKED_AT: Final = 100
"""Lanes of a queue that are asked why they wait."""


class QueueReporter:
    """Answers `ListQueues`.

    Args:
        backlog: what is queued.
        scheduled: scheduled tasks by queue.
        flights: what is out.
        rooms: the windows.
        directory: the live workers.
        capability: who can run what.
        ledger: the quotas.
        reasons: why something waits.
        traffic: what comes and goes.
        target: seconds within which the recommended workers would empty a queue.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        backlog: Backlog,
        scheduled: Callable[[], Mapping[str, int]],
        flights: Flights,
        rooms: Rooms,
        directory: Directory,
        capability: Capability,
        ledger: Ledger,
        reasons: Reasons,
        traffic: Traffic,
        target: float,
        clock: Callable[[], float] = steady,
        wall: Callable[[], float] = wall,
    ) -> None:
        self._backlog = backlog
        self._scheduled = scheduled
        self._flights = flights
        self._rooms = rooms
        self._directory = directory
        self._capability = capability
        self._ledger = ledger
        self._reasons = reasons
        self._traffic = traffic
        self._loads: dict[str, float] = {}
        """The weights of the queues that have work, summed up for each worker once in each report."""
        self._target = target
        self._clock = clock
        self._wall = wall
        self._worker_slots: dict[str, float] = {}
        """Of one worker of a queue, as it was when there was one last."""

    async def answer(self, asker: Asker, body: bytes) -> Message:
        """Describe the queues."""
        ask = decode(ListQueues, body)
        return Queues(self.reports(ask.names)[:SHOWN])

    def reports(self, names: Collection[str] | None = None, *, notes: bool = True) -> list[QueueReport]:
        """The queues as they are now, by name.

        Args:
            names: only these; None: all.
            notes: say why what waits does, which takes longer than all the figures together.
        """
        known = {
            *self._backlog.queues(),
            *self._scheduled(),
            *self._directory.queues(),
            *self._flights.queues(),
            *self._traffic.queues(),
            *(quota.name for quota in self._ledger.quotas(Scope.QUEUE)),
        }
        wanted = known if names is None else known.intersection(names)
        running, now = self._running(), self._clock()
        self._loads.clear()
        return [self._report(queue, running[queue], now, notes) for queue in sorted(wanted)]

    def _report(self, queue: str, running: int, now: float, notes: bool) -> QueueReport:
        queued, out = self._backlog.total(queue), self._flights.out(queue)
        unrunnable = self._unrunnable(queue)
        serving = self._directory.serving(queue)
        oldest = self._backlog.oldest(queue)
        quota = self._ledger.quota(Scope.QUEUE, queue)
        flow = self._traffic.of(queue)
        age = 0.0 if oldest is None or not queued else max(0.0, self._wall() - oldest)
        demand = self._demand(queue, quota, flow, serving, queued - unrunnable if serving else queued, out, age)
        return QueueReport(
            queue,
            queued,
            self._scheduled().get(queue, 0),
            max(0, out - running),
            running,
            unrunnable,
            round(age, 3),
            round(flow.accepted, 3),
            round(flow.finished, 3),
            self._drain(demand, unrunnable),
            len(serving),
            sum(worker.beat.slots for worker in serving),
            recommended_workers(demand, self._target),
            self._rooms.window(queue, now).tasks,
            None if quota == Quota(scope=Scope.QUEUE, name=queue) else quota,
            self._note(queue, queued, unrunnable, now) if queued and notes else "",
            self._limited(queue, now),
        )

    def _demand(
        self, queue: str, quota: Quota, flow: Flow, serving: Collection[Worker], waiting: int, out: int, oldest: float
    ) -> Demand:
        if serving:
            capacity = sum(worker.beat.capacity or worker.beat.slots for worker in serving)
            self._worker_slots[queue] = max(1.0, capacity / len(serving))
        held = self._held(queue, flow.run)
        return Demand(
            waiting=max(0, waiting),
            out=out,
            accepted=flow.accepted,
            finished=flow.finished_lately,
            oldest=oldest,
            run=flow.run,
            slots=sum(worker.beat.slots * self._share(queue, worker) for worker in serving),
            worker_slots=self._worker_slots.get(queue, DEFAULT_SLOTS),
            rate=None if quota.rate is None else quota.rate.count / quota.rate.per,
            concurrency=quota.concurrency,
            paused=quota.paused,
            usable=held.usable,
            bound=held.slots,
            least=held.seconds,
        )

    def _held(self, queue: str, run: float) -> Restraint:
        if not self._ledger.limits_within:
            return Restraint(self._backlog.total(queue))
        return restraint(self._backlog.lanes(queue), self._ledger, max(run, OVERHEAD), self._target)

    @staticmethod
    def _drain(demand: Demand, unrunnable: int) -> float | None:
        if unrunnable:
            return None
        seconds = drain_seconds(demand)
        return None if seconds is None else round(seconds, 3)

    def _share(self, queue: str, worker: Worker) -> float:
        """Which part of a worker's slots `queue` may have beside the others that have work."""
        names = worker.beat.queues
        load = self._loads.get(worker.beat.worker)
        if load is None:
            load = sum(self._ledger.weight_of_queue(each) for each in names if self._has_work(each))
            self._loads[worker.beat.worker] = load
        weight = self._ledger.weight_of_queue(queue)
        return weight / (load if self._has_work(queue) else load + weight)

    def _has_work(self, queue: str) -> bool:
        return bool(self._backlog.total(queue) or self._flights.out(queue))

    def _unrunnable(self, queue: str) -> int:
        return sum(
            waiting.count
            for waiting in self._backlog.lanes(queue)
            if self._capability.of(waiting.lane).serves is Serves.NONE
        )

    def _limited(self, queue: str, now: float) -> int:
        if not self._ledger.quotas():
            return 0
        lanes = self._backlog.lanes(queue)
        return sum(waiting.count for waiting in lanes if self._ledger.allowed(waiting.lane, now) <= 0)

    def _note(self, queue: str, queued: int, unrunnable: int, now: float) -> str:
        """Why nothing, or not everything, is dispatched."""
        if self._ledger.quota(Scope.QUEUE, queue).paused:
            return "paused"
        if unrunnable:
            lane = next(
                waiting.lane
                for waiting in self._backlog.lanes(queue)
                if self._capability.of(waiting.lane).serves is Serves.NONE
            )
            reason = self._capability.why_not(lane)
            if unrunnable == queued:
                return reason
            some = f"{unrunnable:,} wait: {reason}"
            reached = self._reasons.limit(Scope.QUEUE, queue, now)
            return f"{reached}; {some}" if reached else some
        if reached := self._reasons.limit(Scope.QUEUE, queue, now):
            return reached
        lanes = islice(self._backlog.lanes(queue), LOOKED_AT)
        reasons = Counter(self._reasons.why(waiting.lane, now) for waiting in lanes)
        return reasons.most_common(1)[0][0] if reasons and not reasons[""] else ""

    def _running(self) -> Counter[str]:
        """How many dispatched tasks of each queue had started when their workers last beat."""
        flights = self._flights.by_lease
        leases = (lease for worker in self._directory.workers.values() for lease in worker.running)
        return Counter(flights[lease].queue for lease in leases if lease in flights)

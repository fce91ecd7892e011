"""Every metric of the scheduler, fed by its events; queues and task names beyond a bound count as ``other``."""

from __future__ import annotations

import math
import time
from collections import Counter as Counted
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.administration import QueueReport
from common.metrics import (
    COUNTS,
    LONG_SECONDS,
    SECONDS,
    FastHistogram,
    LabelBound,
    LoopCollector,
    new_registry,
    watch_broker,
)
from common.telemetry import Telemetry
from scheduler_service import events
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.queue_reporter import QueueReporter
from scheduler_service.worker_reporter import WorkerReporter

QUEUES = 300
TASKS = 500


class SchedulerMetrics:
    """The scheduler's registry, subscribed to its telemetry.

    Args:
        telemetry: where the events come from.
        named: whether a worker has ever named a task function; others are ``other``, so that no client can use up the
            labels.

    Attributes:
        registry: what is exposed.
        live: the gauges that are read from live objects, as a part of the service to which these belong.
    """

    def __init__(self, telemetry: Telemetry, named: Callable[[str], bool] | None = None) -> None:
        self.registry = registry = new_registry("scheduler")
        watch_broker(registry, telemetry)
        self.live = LoopCollector()
        registry.register(self.live)
        self._queue = LabelBound(QUEUES)
        self._task = LabelBound(TASKS, admits=named)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(name, help_text, labels, registry=registry)

        self._submitted = counter("warren_tasks_submitted", "Tasks stored for the first time.", "queue")
        self._duplicates = counter("warren_tasks_resubmitted", "Tasks that were stored before, with equal content.")
        self._dispatched = counter("warren_tasks_dispatched", "Dispatches confirmed by the broker.", "queue")
        self._completed = counter("warren_tasks_completed", "Terminal tasks.", "queue", "task", "status")
        self._returned = counter("warren_tasks_returned", "Leases that came back unrun.", "queue", "reason")
        self._held = counter("warren_tasks_held", "Deliveries acked while their task runs on.", "queue")
        self._redelivered = counter("warren_redelivered", "Leases that the broker delivered twice.", "queue")
        self._lost = counter("warren_tasks_lost", "Dispatches found in nobody's hands.", "queue")
        self._suspects = counter("warren_suspects", "Lost dispatches whose holder died.", "queue")
        self._parked = counter("warren_parked", "Messages refused and kept.", "origin", "reason")
        self._failed = counter(
            "warren_attempts_failed", "Attempts that failed, and whether it was the last one.", "queue", "kind", "then"
        )
        self._stale = counter("warren_replies_stale", "Outcomes that changed nothing.")
        self._told = counter("warren_told", "Results told to clients.")
        self._unroutable = counter("warren_told_unroutable", "Results whose client was gone.")
        self._unreadable = counter("warren_beats_unreadable", "Messages to the beat exchange that cannot be read.")
        self._pruned = counter("warren_tasks_pruned", "Finished tasks that were kept long enough, and forgotten.")
        self._pruned_parked = counter("warren_parked_pruned", "Parked messages that were kept long enough.")
        self._store_failed = counter("warren_store_failed", "Transactions that were not committed.")

        def histogram(name: str, help_text: str, buckets: tuple[float, ...], *labels: str) -> FastHistogram:
            return FastHistogram(name, help_text, labels, buckets, registry)

        self._wait = histogram(
            "warren_task_queue_wait_seconds",
            "From when a task was stored, or first became due, to each dispatch.",
            LONG_SECONDS,
            "queue",
        )
        self._late = histogram("warren_due_late_seconds", "From when a task was due to when it was queued.", SECONDS)
        self._run = histogram("warren_task_run_seconds", "Run times.", LONG_SECONDS, "queue", "task")
        self._total = histogram(
            "warren_task_total_seconds", "From when a task was stored to terminal.", LONG_SECONDS, "queue"
        )
        self._intake = histogram("warren_intake_batch_tasks", "Tasks stored together.", COUNTS)
        self._replies = histogram("warren_reply_batch_tasks", "Outcomes applied together.", COUNTS)
        self._bundles = histogram("warren_bundle_tasks", "Tasks in one work message.", COUNTS)
        self._commit = histogram("warren_store_commit_seconds", "Commits of the store.", SECONDS)
        self._subscribe(telemetry)

    def _subscribe(self, telemetry: Telemetry) -> None:
        telemetry.on(events.Submitted, self._on_submitted)
        telemetry.on(events.Dispatched, self._on_dispatched)
        telemetry.on(events.Replied, self._on_replied)
        telemetry.on(events.Ended, self._on_ended)
        telemetry.on(events.Returned, self._on_returned)
        telemetry.on(events.Held, lambda event: self._held.labels(self._queue(event.queue)).inc(event.count))
        telemetry.on(events.AttemptsFailed, self._on_attempts_failed)
        telemetry.on(events.Ripened, lambda event: self._late.observe_many(event.late))
        telemetry.on(events.Lost, self._on_lost)
        telemetry.on(events.BeatUnreadable, lambda _: self._unreadable.inc())
        telemetry.on(events.Parked, lambda event: self._parked.labels(event.origin, event.reason).inc(event.count))
        telemetry.on(events.Told, self._on_told)
        telemetry.on(events.Pruned, self._on_pruned)
        telemetry.on(events.StoreCommitted, lambda event: self._commit.observe(event.commit_seconds))
        telemetry.on(events.StoreFailed, lambda event: self._store_failed.inc())

    def _on_submitted(self, event: events.Submitted) -> None:
        for queue, count in event.by_queue.items():
            self._submitted.labels(self._queue(queue)).inc(count)
        self._duplicates.inc(event.duplicates)
        self._intake.observe(event.batch)

    def _on_dispatched(self, event: events.Dispatched) -> None:
        queue = self._queue(event.queue)
        self._dispatched.labels(queue).inc(event.tasks)
        self._bundles.observe(event.tasks)
        self._wait.observe_many(event.waits, (queue,))

    def _on_replied(self, event: events.Replied) -> None:
        self._replies.observe(event.batch)
        self._stale.inc(event.stale)
        self._count(event.finished)
        for finished in event.finished:
            queue = self._queue(finished.queue)
            ran = [seconds for seconds in finished.run_seconds if seconds > 0]
            if ran:
                self._run.observe_many(ran, (queue, self._task(finished.task)))
            self._total.observe_many(finished.total_seconds, (queue,))

    def _on_ended(self, event: events.Ended) -> None:
        self._count(event.finished)

    def _count(self, ended: Iterable[events.Finished]) -> None:
        for finished in ended:
            labels = (self._queue(finished.queue), self._task(finished.task), finished.status)
            self._completed.labels(*labels).inc(len(finished.total_seconds))

    def _on_pruned(self, event: events.Pruned) -> None:
        self._pruned.inc(event.tasks)
        self._pruned_parked.inc(event.parked)

    def _on_returned(self, event: events.Returned) -> None:
        queue = self._queue(event.queue)
        self._returned.labels(queue, event.reason).inc(event.count)
        if event.reason == "redelivered":
            self._redelivered.labels(queue).inc(event.count)

    def _on_attempts_failed(self, event: events.AttemptsFailed) -> None:
        then = "retried" if event.retried else "failed"
        self._failed.labels(self._queue(event.queue), event.kind, then).inc(event.count)

    def _on_lost(self, event: events.Lost) -> None:
        queue = self._queue(event.queue)
        self._lost.labels(queue).inc(event.count)
        self._suspects.labels(queue).inc(event.suspects)

    def _on_told(self, event: events.Told) -> None:
        self._told.inc(event.results)
        self._unroutable.inc(event.unroutable)

    def watch(
        self,
        flights: Flights,
        rooms: Rooms,
        directory: Directory,
        backlog: Callable[[], Mapping[str, int]],
        scheduled: Callable[[], Mapping[str, int]],
        store_up: Callable[[], bool],
    ) -> None:
        """Read gauges from the live objects when they are scraped."""
        self.live.add(_Gauges(flights, rooms, directory, backlog, scheduled, store_up, self._queue))

    def watch_fleet(self, queues: QueueReporter, workers: WorkerReporter, directory: Directory) -> None:
        """Read from what operators are told when it is scraped."""
        self.live.add(_FleetGauges(queues, workers, directory, self._queue))


class _Gauges(Collector):
    def __init__(
        self,
        flights: Flights,
        rooms: Rooms,
        directory: Directory,
        backlog: Callable[[], Mapping[str, int]],
        scheduled: Callable[[], Mapping[str, int]],
        store_up: Callable[[], bool],
        queue: LabelBound,
    ) -> None:
        self._flights = flights
        self._rooms = rooms
        self._directory = directory
        self._backlog = backlog
        self._scheduled = scheduled
        self._store_up = store_up
        self._queue = queue

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        now = time.monotonic()
        backlog = dict(self._backlog())
        scheduled = dict(self._scheduled())
        queues = sorted({*backlog, *scheduled, *self._directory.queues(), *self._flights.queues()})
        state = GaugeMetricFamily("warren_tasks", "Unfinished tasks.", labels=("queue", "state"))
        window = GaugeMetricFamily("warren_window_tasks", "The most that may be out.", labels=("queue",))
        out = GaugeMetricFamily("warren_in_flight_tasks", "Dispatched and unfinished.", labels=("queue",))
        slots = GaugeMetricFamily("warren_live_slots", "Slots of live workers.", labels=("queue",))
        running = self._running()
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
        for queue in queues:
            total = sums[self._queue(queue)]
            total[0] += backlog.get(queue, 0)
            total[1] += self._flights.out(queue)
            total[2] += self._rooms.window(queue, now).tasks
            total[3] += sum(worker.beat.slots for worker in self._directory.serving(queue))
            total[4] += running[queue]
            total[5] += scheduled.get(queue, 0)
        for label, (waiting, flying, room, live, started, later) in sums.items():
            state.add_metric((label, "scheduled"), later)
            state.add_metric((label, "queued"), waiting)
            state.add_metric((label, "dispatched"), flying - started)
            state.add_metric((label, "running"), started)
            window.add_metric((label,), room)
            out.add_metric((label,), flying)
            slots.add_metric((label,), live)
        workers = GaugeMetricFamily("warren_live_workers", "Live workers.", len(self._directory.workers))
        store = GaugeMetricFamily("warren_store_up", "Whether the store takes commits.", float(self._store_up()))
        return [state, window, out, slots, workers, store]

    def _running(self) -> Counted[str]:
        """How many dispatched tasks of each queue had started when their workers last beat."""
        flights = self._flights.by_lease
        leases = (lease for worker in self._directory.workers.values() for lease in worker.running)
        return Counted(flights[lease].queue for lease in leases if lease in flights)


class _FleetGauges(Collector):
    """What scaling and alerts read: how long the queues take, and who is there."""

    def __init__(self, queues: QueueReporter, workers: WorkerReporter, directory: Directory, queue: LabelBound) -> None:
        self._queues = queues
        self._workers = workers
        self._directory = directory
        self._queue = queue

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        def gauge(name: str, help_text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, help_text, labels=("queue",))

        drain = gauge("warren_queue_drain_seconds", "Until what is queued is done as it is now; +Inf: never.")
        recommended = gauge("warren_recommended_workers", "Workers that would empty the queue within drain_target.")
        oldest = gauge("warren_queue_oldest_seconds", "Since the oldest queued task first became due.")
        unrunnable = gauge("warren_tasks_unrunnable", "Queued tasks that no live worker can run.")
        limited = gauge("warren_tasks_limited", "Queued tasks that a pause or a limit holds back.")
        used = gauge("warren_used_slots", "Slots of the workers that serve the queue in which something runs.")
        reports = self._queues.reports(notes=False)
        by_label: dict[str, list[QueueReport]] = defaultdict(list)
        for report in reports:
            by_label[self._queue(report.name)].append(report)
        for label, some in by_label.items():
            seconds = [math.inf if report.drain_seconds is None else report.drain_seconds for report in some]
            drain.add_metric((label,), max(seconds))
            recommended.add_metric((label,), sum(report.recommended_workers for report in some))
            oldest.add_metric((label,), max(report.oldest for report in some))
            unrunnable.add_metric((label,), sum(report.unrunnable for report in some))
            limited.add_metric((label,), sum(report.limited for report in some))
            serving = {id(w): w for report in some for w in self._directory.serving(report.name)}
            used.add_metric((label,), sum(len(worker.running) for worker in serving.values()))
        workers = GaugeMetricFamily("warren_workers", "Workers by how they are.", labels=("state",))
        for state, count in self._workers.states().items():
            workers.add_metric((state,), count)
        return [drain, recommended, oldest, unrunnable, limited, used, workers]

"""Everything that a worker counts, fed by its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import Counter, Gauge

from common.metrics import COUNTS, LONG_SECONDS, SECONDS, CollectorRegistry, FastHistogram, LabelBound, watch_broker
from common.telemetry import Telemetry
from worker_service.events import (
    CommandUnreadable,
    Completed,
    GivenUp,
    Held,
    LoopBlocked,
    ProcessEnded,
    Received,
    Replied,
    Returned,
    SlotsChanged,
    Slow,
    Started,
    StoodStill,
    Undecodable,
)


class WorkerMetrics:
    """Registers the worker's metrics and subscribes them.

    Args:
        registry: where they are exposed.
        telemetry: where the events come from.
        queues: the worker's queues, whose series exist from the start.
        functions: its task functions; any other name is counted as ``other``.
        slots, capacity, memory, running, waiting, draining, paused, loop_lag, processes, given_up: tell the gauges'
            values when they are scraped.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        telemetry: Telemetry,
        *,
        queues: Sequence[str],
        functions: Sequence[str],
        slots: Callable[[], float],
        capacity: Callable[[], float],
        memory: Callable[[], float],
        running: Callable[[], float],
        waiting: Callable[[], float],
        draining: Callable[[], float],
        paused: Callable[[], float],
        loop_lag: Callable[[], float],
        processes: Callable[[], float],
        given_up: Callable[[], float],
    ) -> None:
        watch_broker(registry, telemetry)
        self._task = LabelBound(len(functions), functions)
        self._received = _counter(registry, "received", "Tasks that arrived.", "queue")
        self._completed = _counter(registry, "completed", "Tasks that ran to an end.", "queue", "task", "status")
        self._returned = _counter(registry, "returned", "Leases given back unrun.", "queue", "reason")
        self._held = _counter(registry, "held", "Deliveries of long tasks given up.", "queue")
        self._redelivered = _counter(registry, "redelivered", "Tasks that arrived for a second time.", "queue")
        self._suspects = _counter(registry, "suspects", "Tasks run in a process of their own.", "queue")
        self._undecodable = _counter(registry, "undecodable", "Work that could not be decoded.", "queue")
        self._unreadable = _counter(registry, "commands_unreadable", "Control messages that could not be read.")
        self._given_up = _counter(registry, "given_up", "Tasks that did not end after their hard timeout.", "queue")
        self._blocked = _counter(registry, "loop_blocked", "Times that a coroutine function blocked the loop.", "task")
        self._ended = _counter(registry, "process_ends", "Processes of the pool that ended.", "reason")
        self._slow = _counter(registry, "slow", "Tasks that ran far beyond their function's usual time.", "task")
        self._lowered = _counter(registry, "slots_lowered", "Times that load made the worker take fewer tasks.")
        self._standstills = _counter(registry, "standstills", "Times that the worker stood still or heard nothing.")
        self._run = FastHistogram(
            "warren_worker_run_seconds", "Run time of a task.", ("queue", "task"), LONG_SECONDS, registry
        )
        self._wait = FastHistogram(
            "warren_worker_slot_wait_seconds", "From a task's arrival to its start.", ("queue",), SECONDS, registry
        )
        self._bundle = FastHistogram("warren_worker_bundle_tasks", "Tasks in a bundle.", (), COUNTS, registry)
        self._reply = FastHistogram("warren_worker_reply_tasks", "Outcomes in a reply.", (), COUNTS, registry)
        for queue in queues:
            for counter in (
                self._received,
                self._held,
                self._redelivered,
                self._suspects,
                self._undecodable,
                self._given_up,
            ):
                counter.labels(queue)
        _gauge(registry, "running", "Tasks that run now.", running)
        _gauge(registry, "waiting", "Tasks that wait for a slot.", waiting)
        _gauge(registry, "slots", "Tasks that can run at a time now.", slots)
        _gauge(registry, "capacity", "Tasks that can run at a time when there is not too much load.", capacity)
        _gauge(registry, "memory_bytes", "Memory of the worker's process and its children.", memory)
        _gauge(registry, "paused", "Whether an operator has told the worker to take nothing (1).", paused)
        _gauge(registry, "draining", "Whether the worker takes no more tasks (1).", draining)
        _gauge(registry, "loop_lag_seconds", "How late the coroutine functions' event loop is.", loop_lag)
        _gauge(registry, "processes", "Processes of the pool.", processes)
        _gauge(registry, "given_up_running", "Task functions that were given up and go on.", given_up)
        for event, callback in (
            (Received, self._on_received),
            (Started, self._on_started),
            (Completed, self._on_completed),
        ):
            telemetry.on(event, callback)  # type: ignore[arg-type]
        telemetry.on(Returned, lambda event: self._returned.labels(event.queue, event.reason).inc(event.count))
        telemetry.on(Held, lambda event: self._held.labels(event.queue).inc(event.count))
        telemetry.on(CommandUnreadable, lambda _: self._unreadable.inc())
        telemetry.on(Undecodable, lambda event: self._undecodable.labels(event.queue).inc())
        telemetry.on(GivenUp, lambda event: self._given_up.labels(event.queue).inc())
        telemetry.on(LoopBlocked, lambda event: self._blocked.labels(self._task(event.task)).inc())
        telemetry.on(StoodStill, lambda event: self._standstills.inc())
        telemetry.on(ProcessEnded, lambda event: self._ended.labels(event.reason).inc())
        telemetry.on(Slow, lambda event: self._slow.labels(self._task(event.task)).inc())
        telemetry.on(SlotsChanged, lambda event: self._lowered.inc(event.now < event.before))
        telemetry.on(Replied, lambda event: self._reply.observe(event.outcomes))

    def _on_received(self, event: Received) -> None:
        self._received.labels(event.queue).inc(event.tasks)
        self._bundle.observe(event.tasks)
        if event.redelivered:
            self._redelivered.labels(event.queue).inc(event.tasks)

    def _on_started(self, event: Started) -> None:
        for queue, seconds in event.waits.items():
            self._wait.observe_many(seconds, (queue,))
        for queue, count in event.suspects.items():
            self._suspects.labels(queue).inc(count)

    def _on_completed(self, event: Completed) -> None:
        task = self._task(event.task)
        self._completed.labels(event.queue, task, event.status).inc(len(event.run_seconds))
        self._run.observe_many(event.run_seconds, (event.queue, task))


def _counter(registry: CollectorRegistry, name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"warren_worker_{name}", help_text, labels, registry=registry)


def _gauge(registry: CollectorRegistry, name: str, help_text: str, value: Callable[[], float]) -> None:
    Gauge(f"warren_worker_{name}", help_text, registry=registry).set_function(value)

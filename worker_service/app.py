"""The worker: builds its parts, wires them, and knows the order in which they end.

Draining: first the consumers (basic.cancel), then the executor (what has not started goes back, what runs is
finished), then the replier and the dead letters (everything confirmed and acked). The beats go on until all that is
over, since what is drained is still held; the connections are last.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.background import Periodic
from common.broker import Connection, Publisher
from common.health.server import HealthServer
from common.lifecycle import Part, Service
from common.metrics import new_registry, package_version
from common.telemetry import Telemetry
from common.topology import Topology
from worker_service.acks import Acks
from worker_service.attempts import Leases
from worker_service.beats import Beats
from worker_service.consumer import BUNDLE_TASKS, WorkConsumer, prefetch_for
from worker_service.control import ControlListener
from worker_service.dead_letters import DeadLetters
from worker_service.events import LoopBlocked
from worker_service.executor import Executor
from worker_service.handlers import Handler
from worker_service.holder import Holder
from worker_service.identity import new_worker_id
from worker_service.metrics import WorkerMetrics
from worker_service.replier import Replier
from worker_service.reporter import Reporter
from worker_service.results import Limits
from worker_service.runtimes import Done
from worker_service.runtimes.child import ChildRuntime
from worker_service.runtimes.coroutine import Blockage, CoroutineRuntime
from worker_service.runtimes.forker import Forker, child_environment
from worker_service.runtimes.keeper import Keeper
from worker_service.runtimes.pool import ProcessRuntime
from worker_service.runtimes.thread import ThreadRuntime
from worker_service.settings import WorkerSettings
from worker_service.submitter import Submitter

_log = logging.getLogger(__name__)

_AFTER_DRAIN = 10.0
"""Seconds beyond `drain_timeout` in which what has ended is still replied."""


class LagProbe(Periodic):
    """Measures the coroutine functions' event loop, and names who blocks it; a part of the service.

    Args:
        coroutines: whose loop it is.
        blocked_after: seconds after which somebody is named.
        telemetry: where `LoopBlocked` goes.
    """

    def __init__(self, coroutines: CoroutineRuntime, blocked_after: float, telemetry: Telemetry) -> None:
        async def probe() -> None:
            coroutines.probe()
            if (blockage := coroutines.blockage(blocked_after)) is not None:
                telemetry.emit(LoopBlocked(blame(blockage)))

        super().__init__("loop lag", min(1.0, blocked_after / 2), probe)

    async def start(self) -> None:  # type: ignore[override]
        """Start measuring."""
        super().start()

    async def drain(self) -> None:
        """Nothing."""


def blame(blockage: Blockage) -> str:
    """Log who blocks the event loop; the task function's name."""
    attempt = blockage.attempt
    fields: dict[str, Any] = {"seconds": round(blockage.seconds, 1), "stack": blockage.stack}
    if attempt is not None:
        of = attempt.assignment
        fields |= {"task_id": of.id, "task": of.task, "attempt": of.attempt}
    _log.warning("a coroutine function blocks the event loop of all coroutine functions", extra=fields)
    return "" if attempt is None else attempt.assignment.task


class Surrounding:
    """What the worker does for the tasks that it runs, in whatever runtime; see `common.context.Surroundings`."""

    def __init__(self, reporter: Reporter, submitter: Submitter) -> None:
        self.progress = reporter.progress
        self.submit = submitter.submit


class Worker:
    """One worker service.

    Args:
        settings: its settings.
        handlers: its task functions.
        environ: the environment, of which suspects' processes get a part.
        telemetry: where the events of all parts go.
        new_loop: makes the event loop of the coroutine functions; by default uvloop's where it is installed.
        apart: run suspects, and functions that ask for it, in processes of their own; without it, in threads.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        handlers: Mapping[str, Handler],
        *,
        environ: Mapping[str, str] | None = None,
        telemetry: Telemetry | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
        apart: bool = True,
    ) -> None:
        self.id = new_worker_id(settings.name)
        self.telemetry = telemetry or Telemetry()
        self.leases = Leases()
        self.service = Service("worker", drain_timeout=settings.drain_timeout, after_drain=_AFTER_DRAIN)
        self._settings = settings
        self._limits = Limits(settings.max_result_bytes, settings.max_depth)
        self._environment = child_environment(os.environ if environ is None else environ, settings.child_environment)
        topology = Topology(settings.namespace)
        consuming, publishing = self._connection("consume"), self._connection("publish")
        self._connections = (consuming, publishing)

        # Each publisher has a channel of its own: a refusal closes the channel and makes its siblings' fate unknown.
        self.replier = Replier(
            self.id,
            self._publisher(publishing),
            topology.reply_exchange.name,
            self.leases,
            self.telemetry,
            Acks(prefetch_for(settings.slots) // 4),
            self.service.report,
        )
        self.dead_letters = DeadLetters(
            self.id, self._publisher(publishing), topology.dead_exchange.name, self.service.report
        )
        self.reporter = Reporter(self.id, self._publisher(publishing), topology.beat_exchange.name)
        self.submitter = Submitter(self._publisher(publishing), topology.submit_exchange.name, publishing.user)
        self._surroundings = Surrounding(self.reporter, self.submitter)
        self.coroutines = CoroutineRuntime(self._limits, self._finished, self._surroundings, new_loop)
        threads = ThreadRuntime(self._threads(handlers, apart), self._limits, self._finished, self._surroundings)
        children = ChildRuntime(
            Keeper(self._start_forker, "suspects"),
            self._start_forker,
            self._finished,
            self._surroundings,
            self.service.report,
        )
        self.processes = ProcessRuntime(
            Keeper(self._start_forker, "processes"),
            self._finished,
            children.run,
            self._surroundings,
            recycle_after=settings.process_tasks,
            needed=apart and any(handler.in_process for handler in handlers.values()),
            telemetry=self.telemetry,
            report=self.service.report,
        )
        self.executor = Executor(
            handlers,
            coroutines=self.coroutines,
            threads=threads,
            processes=self.processes if apart else threads,
            children=children if apart else threads,
            answer=self.replier.answer,
            announce=lambda: self.beats.announce(),
            slots=settings.slots,
            process_slots=settings.processes or os.cpu_count() or 1,
            patience=settings.queue_patience,
            grace=settings.timeout_grace,
            max_given_up=settings.max_given_up,
            worn_out=self._retire,
            drain_timeout=settings.drain_timeout,
            telemetry=self.telemetry,
        )
        self.holder = Holder(
            settings.hold_after, self.executor.running_attempts, self.replier.answer, self.service.report
        )
        self.beats = Beats(
            self.id,
            self._publisher(publishing),
            topology.beat_exchange.name,
            self.leases,
            queues=settings.queues,
            slots=settings.slots,
            functions=list(handlers),
            closed=lambda: self.executor.closed,
            interval=settings.beat_interval,
            version=package_version(),
            report=self.service.report,
        )
        self.executor.on_first_start = self.beats.changed
        self.consumers = [
            WorkConsumer(
                consuming,
                queue,
                topology.work_queue(queue),
                slots=settings.slots,
                leases=self.leases,
                congested=self._congested,
                accept=self.executor.accept,
                answer=self.replier.answer,
                bury=self.dead_letters.bury,
                telemetry=self.telemetry,
            )
            for queue in settings.queues
        ]
        self.replier.on_confirmed = self._confirmed
        self.control = ControlListener(
            consuming, topology.control_queue(self.id), self.beats.probe, self._renew, self.executor.cancel
        )
        self.health = self._health(handlers)
        self._assemble()

    async def run(self) -> int:
        """Run until SIGTERM; returns the exit code.

        Raises:
            SettingsError: the user's modules cannot be imported for suspects, or the health server cannot be bound.
        """
        return await self.service.run()

    def _assemble(self) -> None:
        service = self.service
        service.on_draining(self.beats.mark_draining)
        started: list[Part] = [*self._connections, self.replier, self.dead_letters, self.reporter, self.submitter]
        lag = LagProbe(self.coroutines, self._settings.loop_blocked_after, self.telemetry)
        started += [self.executor, self.holder, self.beats, self.control, lag, *self.consumers]
        if self.health is not None:
            service.on_draining(self.health.mark_draining)
            started.insert(0, self.health)
        for part in started:
            service.add(part)
        ended: list[Part] = [*self.consumers, self.executor, self.holder, self.replier, self.dead_letters]
        service.stop_order = ended + [part for part in reversed(started) if part not in ended]

    def _finished(self, done: Sequence[Done]) -> None:
        self.reporter.ended(done)
        self.executor.finished(done)  # built after its runtimes, so they cannot be given its method

    def _congested(self) -> bool:
        # More than the broker hands over on one set of channels; it takes a reconnect while replies stall.
        most = self._settings.slots + prefetch_for(self._settings.slots) * BUNDLE_TASKS * len(self.consumers)
        return self.replier.unanswered > most

    def _confirmed(self) -> None:
        for consumer in self.consumers:
            consumer.take()

    async def _start_forker(self) -> Forker:
        settings = self._settings
        return await Forker.start(
            settings.modules,
            self._limits,
            self._environment,
            settings.log_level,
            settings.log_format,
            self._surroundings,
        )

    def _threads(self, handlers: Mapping[str, Handler], apart: bool) -> int:
        """One thread for each slot; none when there is no plain function."""
        plain = any(not handler.is_coroutine and not (apart and handler.in_process) for handler in handlers.values())
        return self._settings.slots if plain else 0

    def _renew(self, queue: str) -> None:
        for consumer in self.consumers:
            if consumer.name == queue:
                consumer.renew()

    def _connection(self, purpose: str) -> Connection:
        return Connection.of(
            self._settings,
            name=f"warren worker {self.id} {purpose}",
            label=f"worker.{purpose}",
            telemetry=self.telemetry,
        )

    def _publisher(self, connection: Connection) -> Publisher:
        return Publisher(connection, timeout=self._settings.publish_timeout, telemetry=self.telemetry)

    def _health(self, handlers: Mapping[str, Handler]) -> HealthServer | None:
        settings = self._settings
        registry = new_registry("worker")
        WorkerMetrics(
            registry,
            self.telemetry,
            queues=settings.queues,
            functions=list(handlers),
            slots=settings.slots,
            running=lambda: self.executor.running,
            waiting=lambda: self.executor.waiting,
            draining=lambda: self.service.draining,
            loop_lag=lambda: self.coroutines.lag,
            processes=lambda: self.processes.size,
            given_up=lambda: self.executor.given_up,
        )
        checks = {
            "connected": self._unconnected,
            "consuming": self._deaf,
            "replying": self._stuck,
            "given_up": self._worn_out,
        }
        return HealthServer(settings.http_host, settings.http_port, registry, checks) if settings.http else None

    def _unconnected(self) -> str | None:
        missing = [each.name.rpartition(" ")[2] for each in self._connections if not each.connected]
        return f"no connection to {' and to '.join(missing)}" if missing else None

    def _deaf(self) -> str | None:
        deaf = [consumer.name for consumer in self.consumers if not consumer.consuming]
        return f"not consuming {', '.join(deaf)}" if deaf else None

    def _stuck(self) -> str | None:
        return self.replier.stuck_reason or None

    def _worn_out(self) -> str | None:
        given_up, most = self.executor.given_up, self._settings.max_given_up
        return f"{given_up} task functions that were given up go on, {most} may" if given_up > most else None

    def _retire(self) -> None:
        self.service.retire(self._worn_out() or "worn out")

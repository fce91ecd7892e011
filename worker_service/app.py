"""The worker: builds its parts, wires them, and knows the order in which they end.

Draining: first the consumers of work queues (basic.cancel), then the executor (what has not started goes back, what
runs is finished), then the consumer of the direct queue, which ends with this worker: until then what comes there goes
back. Then the replier and the dead letters (everything confirmed and acked). The beats go on until all that is over,
since what is drained is still held; the connections are last.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence

from common.broker import Connection, Publisher
from common.health.server import HealthServer
from common.ids import new_nonce
from common.lifecycle import Part, Service
from common.metrics import new_registry, package_version
from common.telemetry import Telemetry
from common.topology import Queue, Topology
from common.wire import BUNDLE_TASKS, EXPRESS_TASKS, ReturnReason
from worker_service.acks import Acks
from worker_service.attempts import Leases
from worker_service.beats import Beats, Condition
from worker_service.briefing import Briefing
from worker_service.commands import Commands
from worker_service.consumer import WorkConsumer, prefetch_for
from worker_service.control import ControlListener
from worker_service.counters import Counters
from worker_service.dead_letters import DeadLetters
from worker_service.events import StoodStill
from worker_service.executor import Executor
from worker_service.governor import Governor
from worker_service.handlers import Handler
from worker_service.holder import Holder
from worker_service.identity import new_worker_id
from worker_service.lag import LagProbe
from worker_service.load import LoadWatch
from worker_service.metrics import WorkerMetrics
from worker_service.operating import Operating
from worker_service.pauses import PauseDetector, PauseWatch
from worker_service.replier import Replier
from worker_service.reporter import Reporter
from worker_service.results import Limits
from worker_service.runtimes import Done
from worker_service.runtimes.child import ChildRuntime
from worker_service.runtimes.coroutine import CoroutineRuntime
from worker_service.runtimes.forker import Forker, child_environment
from worker_service.runtimes.keeper import Keeper
from worker_service.runtimes.pool import ProcessRuntime
from worker_service.runtimes.thread import ThreadRuntime
from worker_service.settings import WorkerSettings
from worker_service.stacks import StackReader
from worker_service.submitter import Submitter
from worker_service.watchdog import Watchdog

_AFTER_DRAIN = 10.0
"""Seconds beyond `drain_timeout` in which what has ended is still replied."""


_log = logging.getLogger(__name__)


class Surrounding:
    """What the worker does for the tasks that it runs, in whatever runtime; see `common.context.Surroundings`."""

    def __init__(self, reporter: Reporter, submitter: Submitter) -> None:
        self.progress = reporter.progress
        self.submit = submitter.submit


class Worker:
    """One worker service.

    Args:
        settings: its settings.
        handlers: its task functions; it runs those whose required labels it has.
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
        able = {name: each for name, each in handlers.items() if each.requires <= set(settings.labels)}
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
        self.briefing = Briefing()
        self.pauses = PauseDetector(self._woken)
        consuming.on_lost(self._cut_off)
        missed = self.pauses.missed
        self.coroutines = CoroutineRuntime(self._limits, self._finished, missed, self._surroundings, new_loop)
        self.threads = ThreadRuntime(
            self._threads(able, apart), self._limits, self._finished, missed, self._surroundings
        )
        in_processes = any(handler.in_process for handler in able.values())
        process_slots = settings.processes or os.cpu_count() or 1
        children = ChildRuntime(
            Keeper(self._start_forker, "suspects"),
            self._start_forker,
            self._finished,
            missed,
            self._surroundings,
            self.service.report,
        )
        self.processes = ProcessRuntime(
            Keeper(self._start_forker, "processes"),
            self._finished,
            missed,
            children.run,
            self._surroundings,
            recycle_after=settings.process_tasks,
            needed=apart and in_processes,
            telemetry=self.telemetry,
            report=self.service.report,
        )
        self.executor = Executor(
            able,
            coroutines=self.coroutines,
            threads=self.threads,
            processes=self.processes if apart else self.threads,
            children=children if apart else self.threads,
            answer=self.replier.answer,
            announce=lambda: self.beats.announce(),
            look=self.pauses.look,
            slots=settings.slots,
            process_slots=process_slots,
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
        self.load = LoadWatch(
            Governor(settings.slots, settings.memory_high, settings.loop_lag_high),
            settings.beat_interval,
            loop_lag=self.coroutines.take_worst_lag,
            running=lambda: self.executor.running,
            changed=self._resized,
            telemetry=self.telemetry,
            report=self.service.report,
        )
        self.stacks = StackReader(self.executor.running_by_runtime, self.executor.given_up_by_runtime)
        self.watchdog = Watchdog(
            self.executor.running_attempts,
            self.stacks.of,
            factor=settings.slow_factor,
            after=settings.slow_after,
            telemetry=self.telemetry,
            report=self.service.report,
        )
        self.beats = Beats(
            self.id,
            self._publisher(publishing),
            topology.beat_exchange.name,
            self.leases,
            queues=settings.queues,
            functions=list(able),
            barred=[name for name in handlers if name not in able],
            processes=process_slots if in_processes else 0,
            labels=settings.labels,
            condition=self._condition,
            interval=settings.beat_interval,
            version=package_version(),
            crashed=lambda: self.service.failed,
            report=self.service.report,
        )
        self.executor.on_first_start = self.beats.changed
        self.consumers = [self._consumer(consuming, queue, topology.work_queue(queue)) for queue in settings.queues]
        self.direct = self._consumer(consuming, None, topology.direct_queue(self.id), more=EXPRESS_TASKS)
        self.replier.on_confirmed = self._confirmed
        operating = Operating(
            executor=self.executor,
            consumers=self.consumers,
            slots=self.load,
            counters=Counters(self.telemetry),
            stacks=self.stacks,
            unanswered=lambda: self.replier.unanswered,
            ending=lambda: self.service.draining,
            end=self.service.drain,
            changed=self.beats.changed,
        )
        self.commands = Commands(self.id, self._publisher(publishing), topology.beat_exchange.name, operating.verbs)
        self.control = ControlListener(
            consuming,
            lambda: topology.control_queue(self.id, new_nonce()),
            self.beats.probe,
            self._renew,
            self.executor.cancel,
            self._briefed,
            self._missed,
            self.commands.take,
            self.commands.refuse,
            self.telemetry,
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
        pauses = PauseWatch(self.pauses, self.service.report)
        started += [
            self.executor,
            pauses,
            self.holder,
            lag,
            self.load,
            self.watchdog,
            self.beats,
            self.commands,
            self.control,
        ]
        started += [self.direct, *self.consumers]
        if self.health is not None:
            service.on_draining(self.health.mark_draining)
            started.insert(0, self.health)
        for part in started:
            service.add(part)
        ended: list[Part] = [*self.consumers, self.executor, self.direct, self.holder, self.replier, self.dead_letters]
        service.stop_order = ended + [part for part in reversed(started) if part not in ended]

    def _consumer(self, connection: Connection, name: str | None, queue: Queue, *, more: int = 0) -> WorkConsumer:
        return WorkConsumer(
            connection,
            name,
            queue,
            slots=self._settings.slots,
            more=more,
            leases=self.leases,
            ready=self.briefing.wait,
            precedes=self._precedes,
            congested=self._congested,
            accept=self.executor.accept,
            answer=self.replier.answer,
            bury=self.dead_letters.bury,
            telemetry=self.telemetry,
        )

    def _condition(self) -> Condition:
        return Condition(
            slots=self.load.slots,
            capacity=self.load.capacity,
            load=self.load.load,
            # What came before it is told would go back, so nothing is to come.
            paused=self.executor.paused or not self.briefing.complete,
            closed=self.executor.closed,
            direct=self.direct.consuming,
            asking=self.briefing.asking if self.control.consuming else "",
        )

    def _resized(self) -> None:
        """There are more or fewer slots than before."""
        slots = self.load.slots
        self.threads.grow(slots)
        self.executor.resize(slots)
        for consumer in (*self.consumers, self.direct):
            consumer.resize(slots)
        self.beats.changed()

    def _woken(self, seconds: float) -> None:
        """It stood still: what became of what it was given is still to be heard, if it is not lost."""
        _log.warning("this worker stood still, what it had not started goes back", extra={"seconds": round(seconds, 1)})
        self.telemetry.emit(StoodStill(seconds))
        self.executor.give_back(ReturnReason.AWAY)
        self.briefing.begin()
        for consumer in (*self.consumers, self.direct):
            consumer.renew()
        self.beats.changed()

    def _cut_off(self) -> None:
        """What workers are told from now on is not heard here."""
        self.pauses.away()
        self.executor.give_back(ReturnReason.AWAY)
        self.briefing.begin()

    def _missed(self) -> None:
        """It has begun to listen, and asks what was said before; or it listens no more, and is to be sent nothing."""
        self._cut_off()
        self.beats.changed()

    def _precedes(self, number: int) -> bool:
        if not self.briefing.precedes(number):
            return False
        self.beats.changed()  # it may have to ask again, and each bundle until the answer would go back
        return True

    def _briefed(self, token: str, mark: int) -> None:
        """The scheduler says from which dispatch on this worker hears everything."""
        self.briefing.tell(token, mark)
        self.beats.changed()

    def _finished(self, done: Sequence[Done]) -> None:
        self.reporter.ended(done)
        self.executor.finished(done)  # built after its runtimes, so they cannot be given its method

    def _congested(self) -> bool:
        # More than the broker hands over on one set of channels; it takes a reconnect while replies stall.
        slots = self.load.capacity
        most = slots + prefetch_for(slots) * BUNDLE_TASKS * (len(self.consumers) + 1)
        return self.replier.unanswered > most

    def _confirmed(self) -> None:
        for consumer in (*self.consumers, self.direct):
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
            slots=lambda: self.load.slots,
            capacity=lambda: self.load.capacity,
            memory=lambda: self.load.load.memory,
            running=lambda: self.executor.running,
            waiting=lambda: self.executor.waiting,
            draining=lambda: self.service.draining,
            paused=lambda: self.executor.paused,
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
        if self.executor.paused:
            return None  # as it was told
        if fault := self.control.fault:
            return fault
        if not self.briefing.complete:
            return "no scheduler has said yet what was dispatched before this worker could hear"
        deaf = [consumer.fault for consumer in (*self.consumers, self.direct) if not consumer.consuming]
        return "; ".join(deaf) or None

    def _stuck(self) -> str | None:
        return self.replier.stuck_reason or None

    def _worn_out(self) -> str | None:
        given_up, most = self.executor.given_up, self._settings.max_given_up
        return f"{given_up} task functions that were given up go on, {most} may" if given_up > most else None

    def _retire(self) -> None:
        self.service.retire(self._worn_out() or "worn out")

"""The scheduler, put together. This file alone builds the parts and wires them.

A task's way through it::

    submit queue -> Intake -> store -> Dispatcher -> work queue ... reply queue -> Collector -> store -> Teller

Start order: the store and the gate (lock, topology) before anything that consumes. Stop order, the reverse: what takes
work in first (intake, answerer), then what collects, then what sends, and the store last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from common.administration import (
    Command,
    ListChanges,
    ListQueues,
    ListQuotas,
    ListWorkers,
    Rearrange,
    SetQuota,
)
from common.broker import BatchConsumer, Connection, Publisher
from common.health.server import HealthServer
from common.lifecycle import Service
from common.questions import Ask, Cancel, Dead, ListTasks
from common.states import Rules
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import LARGEST_TASK, MAX_PACK_BYTES
from scheduler_service.answerer import Answerer
from scheduler_service.auditor import Auditor
from scheduler_service.briefer import Briefer
from scheduler_service.canceller import Canceller
from scheduler_service.collector import Collector
from scheduler_service.commander import Commander
from scheduler_service.dead_letters import DeadLetterOffice
from scheduler_service.dispatcher import Dispatcher
from scheduler_service.endings import Endings
from scheduler_service.fleet.backlog import Backlog
from scheduler_service.fleet.capability import Capability
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.express import Express
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.pace import Pace
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.reasons import Reasons
from scheduler_service.fleet.rooms import Rooms
from scheduler_service.fleet.shares import Shares
from scheduler_service.fleet.traffic import Traffic
from scheduler_service.fleet.turns import Turns
from scheduler_service.gate import Gate
from scheduler_service.inquiries import Inquiries
from scheduler_service.intake import Intake
from scheduler_service.janitor import Janitor
from scheduler_service.listener import Listener
from scheduler_service.metrics import SchedulerMetrics
from scheduler_service.queue_reporter import QueueReporter
from scheduler_service.quota_keeper import QuotaKeeper
from scheduler_service.rearranger import Rearranger
from scheduler_service.reception import Limits
from scheduler_service.registrar import Registrar
from scheduler_service.rescuer import Rescuer
from scheduler_service.sender import Sender
from scheduler_service.settings import SchedulerSettings
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.store import Store
from scheduler_service.teller import Teller
from scheduler_service.timers import Timers
from scheduler_service.undertaker import Undertaker
from scheduler_service.worker_reporter import WorkerReporter


class Scheduler:
    """A scheduler process.

    Args:
        settings: validated settings.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        self.settings = settings
        telemetry = self.telemetry = Telemetry()
        topology = Topology(settings.namespace)
        rules = Rules(settings.max_crashes, settings.unknown_function_grace)
        service = self.service = Service("scheduler", drain_timeout=settings.drain_timeout)
        metrics = SchedulerMetrics(telemetry, named=lambda task: directory.has_heard_of(task))

        consuming = self._connection("consume")
        publishing = self._connection("publish")
        publisher = Publisher(publishing, timeout=settings.publish_timeout, telemetry=telemetry)
        store = Store(settings.database_url, telemetry=telemetry, commit_delay=settings.store_commit_delay)
        directory = Directory(settings.dead_after)
        ledger = Ledger()
        pace = Pace()
        shares = Shares(ledger.weight_of_queue)
        express = Express(directory)
        flights = Flights(pace, express, landed=ledger.landed, used=shares.used)
        backlog = Backlog(settings.max_lanes, ledger.limits, ledger.weight_of_key)
        rooms = Rooms(
            directory,
            flights,
            pace,
            shares,
            express,
            settings.window_limit,
            runnable=lambda queue, now: turns.runnable(queue, now),
            keyed=backlog.keyed,
        )
        capability = Capability(directory)
        turns = Turns(backlog, ledger, capability, rooms)
        reasons = Reasons(capability, ledger, flights.paused)
        traffic = Traffic(telemetry)
        gate = Gate(consuming, topology, restored=lambda: listener.consumer.rebind(), report=service.report)
        teller = Teller(publisher, store, telemetry)
        sender = Sender(
            consuming,
            publisher,
            topology,
            store,
            flights,
            rooms,
            give_back=lambda reports: collector.apply(reports),
            suspect=lambda leases: rescuer.suspect(leases),
            gone=lambda worker: directory.miss(worker, time.monotonic()),
            telemetry=telemetry,
            max_queues=settings.max_queues,
        )
        dispatcher = Dispatcher(
            store,
            sender,
            flights,
            rooms,
            backlog,
            ledger,
            turns,
            rules,
            ended=lambda ended: endings.announce(ended),
            report=service.report,
        )
        timers = Timers(
            store,
            rules,
            queued=dispatcher.queued,
            ended=lambda ended: endings.settle(ended),
            doubt=lambda: in_doubt(),
            telemetry=telemetry,
            report=service.report,
        )
        endings = Endings(queued=dispatcher.queued, scheduled=timers.scheduled, tell=teller.tell, telemetry=telemetry)

        def in_doubt() -> None:
            dispatcher.recount()
            timers.recount()

        collector = Collector(
            consuming,
            topology,
            store,
            flights,
            directory,
            rules,
            tell=teller.tell,
            tell_stored=teller.tell_stored,
            queued=dispatcher.queued,
            scheduled=timers.scheduled,
            expect=timers.expect,
            finished=express.finished,
            suspect=lambda leases: rescuer.suspect(leases),
            passed=lambda token: rescuer.passed(token),
            landed=dispatcher.wake,
            doubt=in_doubt,
            mark=lambda: dispatcher.mark,
            telemetry=telemetry,
        )
        rescuer = Rescuer(
            consuming,
            publisher,
            topology,
            flights,
            directory,
            apply=collector.apply,
            freed=dispatcher.wake,
            interval=settings.rescue_interval,
            telemetry=telemetry,
            report=service.report,
        )
        undertaker = Undertaker(consuming, topology, store, suspect=rescuer.suspect, telemetry=telemetry)
        inquiries = Inquiries(
            store,
            flights,
            directory,
            reasons,
            tell_stored=teller.tell_stored,
            storing=lambda: intake.storing,
        )
        auditor = Auditor(store, publisher, topology)
        canceller = Canceller(
            publisher,
            topology,
            store,
            flights,
            directory,
            rules,
            ended=endings.settle,
            doubt=in_doubt,
            certain=lambda: not dispatcher.in_doubt,
            record=auditor.record,
            report=service.report,
        )
        dead_letters = DeadLetterOffice(
            store, queued=dispatcher.queued, lane_number=dispatcher.lane_number, doubt=dispatcher.recount
        )
        janitor = Janitor(store, settings.result_ttl, telemetry=telemetry, report=service.report)
        quota_keeper = QuotaKeeper(
            store,
            effect=dispatcher.limit,
            announce=auditor.announce,
            knows=lambda queue: dispatcher.knows(queue) or queue in directory.queues(),
        )

        def moved(tasks: Sequence[Moved]) -> None:
            dispatcher.moved(tasks)
            timers.moved(tasks)

        rearranger = Rearranger(
            store,
            lane_number=dispatcher.lane_number,
            admits=dispatcher.admits,
            moved=moved,
            announce=auditor.announce,
            doubt=in_doubt,
        )
        commander = Commander(publisher, topology, directory, record=auditor.record)
        queue_reporter = QueueReporter(
            backlog=backlog,
            scheduled=lambda: timers.waiting,
            flights=flights,
            rooms=rooms,
            directory=directory,
            capability=capability,
            ledger=ledger,
            reasons=reasons,
            traffic=traffic,
            target=settings.drain_target,
        )
        worker_reporter = WorkerReporter(directory, flights)
        answerer = Answerer(
            consuming,
            publisher,
            topology,
            store,
            answers={
                Ask.TYPE: inquiries.ask,
                ListTasks.TYPE: inquiries.list_tasks,
                Cancel.TYPE: canceller.cancel,
                Dead.TYPE: dead_letters.answer,
                ListQueues.TYPE: queue_reporter.answer,
                ListWorkers.TYPE: worker_reporter.answer,
                ListQuotas.TYPE: quota_keeper.list_quotas,
                SetQuota.TYPE: quota_keeper.set_quota,
                Rearrange.TYPE: rearranger.answer,
                Command.TYPE: commander.answer,
                ListChanges.TYPE: auditor.answer,
            },
            operators=settings.operators,
            telemetry=telemetry,
        )
        intake = Intake(
            consuming,
            topology,
            store,
            dispatcher=dispatcher,
            timers=timers,
            tell=teller.tell,
            tell_stored=teller.tell_stored,
            limits=Limits(settings.max_task_bytes, settings.max_depth, 2 * MAX_PACK_BYTES + LARGEST_TASK),
            result_ttl=settings.result_ttl,
            workers=(*settings.worker_users, consuming.user),
            telemetry=telemetry,
        )

        registrar = Registrar(store, directory, report=service.report)

        def heard() -> None:
            registrar.heard()
            rescuer.heard()
            dispatcher.wake()

        briefer = Briefer(publisher, topology, flights, report=service.report)
        listener = Listener(
            consuming,
            topology,
            directory,
            asked=briefer.asked,
            heard=heard,
            progressed=flights.progress,
            answered=commander.heard,
            offer=sender.offer,
            telemetry=telemetry,
        )
        metrics.watch(
            flights,
            rooms,
            directory,
            backlog=lambda: dispatcher.backlog,
            scheduled=lambda: timers.waiting,
            store_up=lambda: not store.failure,
        )
        metrics.watch_fleet(queue_reporter, worker_reporter, directory)

        self._connections = (consuming, publishing)
        self.store = store
        self._directory = directory
        self._flights = flights
        self._dispatcher = dispatcher
        self.timers = timers
        self._consumers: Sequence[BatchConsumer] = tuple(
            part.consumer for part in (intake, collector, answerer, undertaker, listener)
        )
        self.health = HealthServer(
            settings.http_host,
            settings.http_port,
            metrics.registry,
            {"broker": self._broker_check, "consumers": self._consumer_check, "store": self._store_check},
        )
        service.on_draining(self.health.mark_draining)
        order = (
            metrics.live,
            *((self.health,) if settings.http else ()),
            store,
            consuming,
            publishing,
            gate,
            teller,
            auditor,
            endings,
            registrar,
            listener,
            sender,
            dispatcher,
            briefer,
            collector,
            rescuer,
            undertaker,
            timers,
            janitor,
            canceller,
            answerer,
            intake,
        )
        for part in order:
            service.add(part)

    async def run(self) -> int:
        """Run until a signal; returns the exit code (`common.lifecycle`)."""
        return await self.service.run()

    def _connection(self, role: str) -> Connection:
        return Connection.of(
            self.settings,
            name=f"warren scheduler {os.getpid()} {role}",
            label=f"scheduler.{role}",
            telemetry=self.telemetry,
        )

    def _broker_check(self) -> str | None:
        down = [connection.label for connection in self._connections if not connection.connected]
        return f"not connected: {', '.join(down)}" if down else None

    def _consumer_check(self) -> str | None:
        deaf = [consumer.fault for consumer in self._consumers if not consumer.consuming]
        stuck = [f"{consumer.name}: {consumer.stuck_reason}" for consumer in self._consumers if consumer.stuck_reason]
        return "; ".join(deaf or stuck) or None

    def _store_check(self) -> str | None:
        return self.store.failure or None

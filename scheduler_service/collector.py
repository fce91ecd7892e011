"""Collector: applies the replies that have arrived by now in one transaction. **Commit, tell, ack.**

A reply that was applied and not acked comes again and changes nothing; its client is told again all the same, because
the first telling may have died with the process. Leases that came back because the broker redelivered them are not
judged here: whether their holder is dead or merely cut off is for the rescuer to find out.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from common.broker import BatchConsumer, Connection, Delivery
from common.errors import StoreRefused, WireError
from common.failpoints import reached
from common.states import (
    TERMINAL,
    Event,
    Failed,
    Rules,
    State,
    Succeeded,
    UnknownFunction,
    Verdict,
)
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import (
    Barrier,
    Outcome,
    OutcomeKind,
    Reply,
    ReturnReason,
    TaskResult,
    check_type,
    decode,
)
from scheduler_service import events, operations
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.lanes import Lane, due, lane_of
from scheduler_service.operations import Applied, Finished, Report, result_of, results_to_tell
from scheduler_service.outcomes import event_of, outcomes_in, unstorable
from scheduler_service.parking import Parking
from scheduler_service.reception import parked_message
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store

log = logging.getLogger(__name__)

PREFETCH = 64
"""Reply messages at a time, each of about 1 MiB at most."""
_ENDED = (OutcomeKind.SUCCEEDED, OutcomeKind.FAILED)


class Collector:
    """The consumer of the reply queue, and the only writer of outcomes.

    Args:
        connection: the consuming connection.
        topology: the names.
        store: where tasks are.
        flights: what is out.
        directory: the live workers.
        rules: the limits of the transition function.
        tell: tells results by reply queue, and waits for it.
        tell_stored: the same for tasks by id whose results are in the store.
        queued: told how many tasks of which lane were queued again, the oldest of them due at which moment.
        scheduled: told how many tasks of which queue were scheduled for later.
        expect: told when the next of them is due, seconds since the epoch.
        finished: told which worker has replied that it finished how many tasks, and when, monotonic seconds.
        suspect: given the leases that were redelivered, to be judged.
        passed: told the token of each barrier that came through.
        landed: called after each batch: room may have opened.
        doubt: called when a transaction may or may not have been committed.
        mark: up to which dispatch the broker has confirmed.
        telemetry: where `Replied` and its like go.
    """

    def __init__(
        self,
        connection: Connection,
        topology: Topology,
        store: Store,
        flights: Flights,
        directory: Directory,
        rules: Rules,
        *,
        tell: Callable[[Mapping[str, Sequence[TaskResult]]], Awaitable[None]],
        tell_stored: Callable[[Mapping[str, Sequence[str]]], Awaitable[None]],
        queued: Callable[[Lane, int, float], None],
        scheduled: Callable[[str, int], None],
        expect: Callable[[float], None],
        finished: Callable[[str, int, float], None],
        suspect: Callable[[Sequence[str]], None],
        passed: Callable[[str], None],
        landed: Callable[[], None],
        doubt: Callable[[], None],
        mark: Callable[[], int],
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._flights = flights
        self._directory = directory
        self._rules = rules
        self._tell = tell
        self._tell_stored = tell_stored
        self._queued = queued
        self._scheduled = scheduled
        self._expect = expect
        self._finished = finished
        self._suspect = suspect
        self._passed = passed
        self._landed = landed
        self._doubt = doubt
        self._mark = mark
        self._telemetry = telemetry
        self._parking = Parking("reply", store, telemetry)
        self.consumer = BatchConsumer(connection, topology.reply, self._handle, prefetch=PREFETCH)

    async def start(self) -> None:
        """Start consuming."""
        await self.consumer.start()

    async def drain(self) -> None:
        """Take no more, and apply what has arrived."""
        await self.consumer.drain()

    async def stop(self) -> None:
        """Stop at once; what is not applied goes back to the reply queue."""
        await self.consumer.stop()

    async def apply(self, reports: Sequence[Report]) -> None:
        """Apply reports, tell who waits, and let the flights land.

        Raises:
            StoreUnavailable: nothing was written; try again.
        """
        await reached("collector.before_commit")
        now = time.time()
        try:
            outcomes = await self._store.run(operations.apply, reports, self._rules, self._mark(), now)
            await reached("collector.after_commit")
        except BaseException:
            # What was committed all the same changes nothing when it is tried again, so nobody would count it.
            self._doubt()
            raise
        told: dict[str, list[TaskResult]] = defaultdict(list)
        again: dict[str, list[str]] = defaultdict(list)
        finished = self._land_finished(outcomes.finished, told, now)
        others, stale = self._land(outcomes.applied, now)
        self._landed()
        self._telemetry.emit(events.Replied(len(reports), [*finished, *others], stale))
        for each in outcomes.applied:
            stored, task = each.stored, each.task
            if stored is None or task is None or task.state not in TERMINAL:
                continue
            if each.verdict is Verdict.CHANGED:
                if each.aliases:
                    results_to_tell(stored, task, each.aliases, lambda to, result: told[to].append(result))
                elif stored.reply_to is not None:
                    told[stored.reply_to].append(result_of(stored.id, task))
                continue
            if stored.reply_to is not None:
                again[stored.reply_to].append(stored.id)
            for alias in each.aliases:
                if alias.reply_to is not None:
                    again[alias.reply_to].append(alias.id)
        await self._tell(told)
        await self._tell_stored(again)
        await reached("collector.after_tell")

    async def _handle(self, deliveries: list[Delivery]) -> None:
        reports: list[Report] = []
        refused: list[ParkedMessage] = []
        tokens: list[str] = []
        suspects: list[str] = []
        returned: list[tuple[str, str, str]] = []
        for delivery in deliveries:
            try:
                if delivery.type == Barrier.TYPE:
                    tokens.append(decode(Barrier, delivery.body).token)
                    continue
                check_type(Reply, delivery.type)
                worker, outcomes = outcomes_in(delivery, refused)
            except WireError as error:
                refused.append(parked_message("reply", delivery, "undecodable", str(error)))
                continue
            ended = sum(outcome.kind in _ENDED for outcome in outcomes)
            self._finished(worker, ended, time.monotonic())
            for outcome in outcomes:
                if outcome.kind is OutcomeKind.SUCCEEDED:
                    event = Succeeded(outcome.attempt, outcome.lease, outcome.result)
                    reports.append(Report(outcome.id, event, worker, outcome.run_seconds))
                    continue
                if outcome.kind is OutcomeKind.RETURNED:
                    flight = self._flights.by_lease.get(outcome.lease)
                    reason = outcome.reason or ReturnReason.REDELIVERED
                    returned.append((outcome.id, flight.queue if flight else "", reason.value))
                    if reason is ReturnReason.REDELIVERED or self._may_be_elsewhere(outcome.lease, worker):
                        suspects.append(outcome.lease)
                        continue
                reports.append(Report(outcome.id, self._event(outcome, worker), worker, outcome.run_seconds))
        await self._parking.park(refused)
        if reports:
            await self._apply_all(reports)
        self._suspect(suspects)
        await self._count_returned(returned)
        for token in tokens:
            self._passed(token)

    async def _count_returned(self, returned: Sequence[tuple[str, str, str]]) -> None:
        """Count what came back: each with its id, its queue if it is out, and the reason."""
        over = list({id_ for id_, queue, _ in returned if not queue})
        queues = await self._store.run(operations.queues_of, over) if over else {}
        counts = Counter((queue or queues.get(id_, "other"), reason) for id_, queue, reason in returned)
        for (queue, reason), count in counts.items():
            self._telemetry.emit(events.Returned(queue, reason, count))

    def _may_be_elsewhere(self, lease: str, worker: str) -> bool:
        """Whether another worker may have a copy of what this one gives back, because it was published twice."""
        flight = self._flights.by_lease.get(lease)
        holder = self._directory.holder(lease)
        return (flight is not None and flight.copied) or (holder is not None and holder != worker)

    def _event(self, outcome: Outcome, worker: str) -> Event:
        event = event_of(outcome)
        if not isinstance(event, UnknownFunction) or outcome.reason is not ReturnReason.UNKNOWN_FUNCTION:
            return event
        flight = self._flights.by_lease.get(outcome.lease)
        # One that names the function and does not know it all the same is no reason to try for ever.
        known = flight is not None and self._directory.is_elsewhere(flight.name, worker)
        return UnknownFunction(event.lease, event.error, known)

    async def _apply_all(self, reports: Sequence[Report]) -> None:
        try:
            await self.apply(reports)
        except (StoreRefused, ValueError) as error:
            # A result that is no UTF-8, a value that the database refuses: the neighbours must not suffer.
            if len(reports) > 1:
                middle = len(reports) // 2
                await self._apply_all(reports[:middle])
                await self._apply_all(reports[middle:])
            else:
                await self.apply([unstorable(reports[0], error)])

    def _land_finished(
        self, finished: Sequence[Finished], told: dict[str, list[TaskResult]], now: float
    ) -> list[events.Finished]:
        """Successes that went the short way: let them land, and note who is to be told what."""
        if not finished:
            return []
        self._flights.land_all([(each.lease, each.run_seconds) for each in finished], time.monotonic())
        by_function: dict[tuple[str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        succeeded = State.SUCCEEDED.value
        for each in finished:
            task = each.task
            runs, totals = by_function[task.queue, task.name]
            runs.append(each.run_seconds)
            totals.append(now - task.submitted_at)
            if task.reply_to is not None:
                told[task.reply_to].append(TaskResult(task.id, succeeded, each.result))
            for alias in each.aliases:
                if alias.reply_to is not None:
                    told[alias.reply_to].append(TaskResult(alias.id, succeeded, each.result))
        return [events.Finished(*which, succeeded, *seconds) for which, seconds in by_function.items()]

    def _land(self, applied: Sequence[Applied], now: float) -> tuple[list[events.Finished], int]:
        """Let all others land; those that ended, and how many changed nothing."""
        if not applied:
            return [], 0
        clock = time.monotonic()
        finished: dict[tuple[str, str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        queued: dict[Lane, list[float]] = defaultdict(list)
        held: Counter[str] = Counter()
        stale = 0
        later: Counter[str] = Counter()
        moments: list[float] = []
        failed: Counter[tuple[str, str, bool]] = Counter()
        for each in applied:
            stored, task = each.stored, each.task
            if each.verdict is not Verdict.CHANGED or stored is None or task is None:
                stale += 1
                if task is None or task.state in TERMINAL:
                    # It was cancelled while it was out, or ended and forgotten: this lease is answered now.
                    self._flights.land(getattr(each.report.event, "lease", ""), clock)
                continue
            event = each.report.event
            if isinstance(event, Failed):
                failed[stored.queue, event.error.kind.value, task.state not in TERMINAL] += 1
            if task.state in TERMINAL:
                ran = isinstance(event, Succeeded | Failed)
                self._flights.land(stored.task.lease, clock, each.report.run_seconds if ran else None)
                runs, totals = finished[stored.queue, stored.name, task.state.value]
                runs.append(each.report.run_seconds)
                totals.append(now - stored.submitted_at)
                continue
            if task.state is State.DISPATCHED:
                held[stored.queue] += 1
                continue
            self._flights.land(stored.task.lease, clock)
            if task.state is State.QUEUED:
                queued[lane_of(stored)].append(due(stored))
            else:
                later[stored.queue] += 1
            moments += [moment for moment in (task.due_at, task.expires_at) if moment is not None]
        for lane, since in queued.items():
            self._queued(lane, len(since), min(since))
        for queue, count in later.items():
            self._scheduled(queue, count)
        if moments:
            self._expect(min(moments))
        for queue, count in held.items():
            self._telemetry.emit(events.Held(queue, count))
        for (queue, kind, retried), count in failed.items():
            self._telemetry.emit(events.AttemptsFailed(queue, kind, retried, count))
        return [events.Finished(*which, *seconds) for which, seconds in finished.items()], stale

"""Inquiries: answers what clients ask about tasks: what became of them, how they stand, and which there are."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from common.options import TaskOptions
from common.questions import Ask, AskKind, ListTasks, Statuses, TaskStatus
from common.states import State
from common.wire import Message, Told, decode
from scheduler_service import operations
from scheduler_service.asking import PATIENCE, Asker
from scheduler_service.fleet.directory import Directory
from scheduler_service.fleet.flights import Flights
from scheduler_service.fleet.lanes import lane
from scheduler_service.fleet.reasons import Reasons
from scheduler_service.operations import Found
from scheduler_service.storage.store import Store

_WAITING: Final = (State.QUEUED, State.SCHEDULED)

TellStored = Callable[[Mapping[str, Sequence[str]]], Awaitable[None]]


class Inquiries:
    """Answers `Ask` and `ListTasks`.

    Args:
        store: where tasks are.
        flights: what is out, with its progress.
        directory: the live workers, for what the store does not know.
        reasons: why something waits.
        tell_stored: tells stored results by reply queue.
        storing: whether submissions are stored as they come: else a task that is not there is not said to be unknown,
            and is asked for again.
    """

    def __init__(
        self,
        store: Store,
        flights: Flights,
        directory: Directory,
        reasons: Reasons,
        *,
        tell_stored: TellStored,
        storing: Callable[[], bool],
    ) -> None:
        self._storing = storing
        self._store = store
        self._flights = flights
        self._directory = directory
        self._reasons = reasons
        self._tell_stored = tell_stored

    async def ask(self, asker: Asker, body: bytes) -> Message:
        """Answer a `wait` or `status` question; the results of a `wait` are told before its answer."""
        ask = decode(Ask, body)
        if ask.kind is AskKind.WAIT:
            terminal, unknown = await self._store.run(operations.wait_for, ask.ids, asker.user, asker.reply_to)
            await self._tell_stored({asker.reply_to: terminal})
            return Told([], unknown if self._storing() else [])
        found, unknown = await self._store.run(operations.look_up, ask.ids, asker.owner)
        return Statuses([self._describe(each) for each in found], unknown if self._storing() else [])

    async def list_tasks(self, asker: Asker, body: bytes) -> Message:
        """Answer with a page of tasks; it may be short, even empty, and yet not be the last."""
        ask = decode(ListTasks, body)
        listed: list[TaskStatus] = []
        deadline = time.monotonic() + PATIENCE
        after = ask.after
        while True:
            found, unknown, after = await self._store.run(
                operations.list_tasks, ask.where, asker.owner, after, ask.limit - len(listed)
            )
            listed += [self._describe(each) for each in found]
            if after is None or len(listed) >= ask.limit or time.monotonic() > deadline:
                return Statuses(listed, unknown, after)

    def _describe(self, found: Found) -> TaskStatus:
        stored, task = found.stored, found.stored.task
        status = TaskStatus(
            found.id,
            task.state.value,
            stored.name,
            stored.queue,
            stored.priority,
            task.attempt,
            stored.worker or "",
            stored.submitted_at,
            stored.dispatched_at or 0.0,
            stored.finished_at or 0.0,
            error=task.error,
            due_at=task.due_at or 0.0,
            expires_at=task.expires_at or 0.0,
            failures=task.failures,
            attempts=found.attempts,
            alias_of=stored.id if found.is_alias else "",
        )
        if task.state is State.DISPATCHED:
            running = self._directory.running_at(task.lease)
            flight = self._flights.by_lease.get(task.lease)
            status.progress = None if flight is None else flight.progress
            if running is None and status.progress is not None:
                # It has started, which the worker's next beat will say.
                running = self._directory.holder(task.lease) or status.worker
            if running is not None:
                status.state, status.worker = "running", running
        requires: tuple[str, ...] = ()
        if stored.options is not None:
            options = decode(TaskOptions, stored.options.encode())
            requires = options.requires or ()
            status.key = options.key or ""
            status.labels = options.labels or {}
            status.parent = options.parent or ""
            status.replay_of = options.replay_of or ""
        waits = lane(stored.queue, stored.priority, stored.name, status.key, requires)
        if task.state in _WAITING:
            status.note = self._reasons.why(waits, time.monotonic())
        elif status.state == State.DISPATCHED:
            status.note = self._reasons.cannot(waits)
        return status

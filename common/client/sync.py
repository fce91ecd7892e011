"""The client for ordinary code: every verb blocks its caller's thread and no other.

Example::

    with Client() as client:
        handle = client.submit("add", 2, 3)
        print(handle.id, handle.result(timeout=10))
"""

# ruff: noqa: SLF001 - client, handles and their watchers are one unit
from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from common.client.core import ClientCore
from common.client.handles import BaseHandle
from common.client.inquiries import Inquiries, Inquiry
from common.client.link import Link
from common.client.messages import CHUNK, MAX_TASK_BYTES, Prepared, check_limit, noted, prepare, prepare_many
from common.client.options import NOTHING, Chosen
from common.client.packs import WINDOW, Pack, Ticket, split
from common.client.sync_administration import Administration
from common.client.sync_handle import Handle
from common.errors import ClientClosed, ResultTimeout
from common.options import TaskOptions
from common.questions import TaskStatus
from common.settings import ClientSettings, load
from common.tasks import Call, TaskFunction, check_task_id
from common.words import Words

__all__ = ["Client", "Handle", "Submitter"]

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Submitter:
    """The verbs that submit, with options that hold for each call."""

    def __init__(self, client: Client | None, chosen: Chosen = NOTHING) -> None:
        self._owner = client
        self._chosen = chosen

    def _client(self) -> Client:
        assert self._owner is not None
        return self._owner

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        task_id: str | None = None,
        **words: Unpack[Words],
    ) -> Submitter:
        """The same verbs with scheduling options, apart from the task function's own arguments.

        Args:
            queue: where the tasks go; by default as the task function says, else ``default``.
            priority: 0 (last) to 9 (first); by default as the task function says, else 4.
            task_id: the id of the one task to be submitted. Submitting the same again with the same id is safe.
            words: when it runs (`delay`, `run_at`, `expires_in`, `expires_at`), how long (`timeout`, `hard_timeout`),
                how often (`retries`, `backoff`, `retry_on`, `give_up_on`, `max_crashes`), at most once
                (`idempotency_key`, `idempotency_window`, `unique`), how it is found again (`key`, `labels`), and
                what is kept (`result_ttl`). `common.options.TaskOptions` says what each means. Spans are seconds or a
                `timedelta`, points in time a `datetime` with a time zone or seconds since the epoch.

        Raises:
            InvalidTask: an option is unknown, of a wrong form or out of its range.

        Example::

            client.options(delay=timedelta(hours=1), retries=5, labels={"tenant": "anna"}).submit("report", 7)
        """
        return Submitter(self._client(), self._chosen.and_also(queue, priority, task_id, words))

    @overload
    def submit(
        self, task: TaskFunction[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Handle[T]: ...

    @overload
    def submit(self, task: TaskFunction[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Handle[T]: ...

    @overload
    def submit(self, task: str, /, *args: Any, **kwargs: Any) -> Handle[Any]: ...

    def submit(self, task: TaskFunction[..., Any] | str, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Submit one task; returns when the broker has confirmed it. From then on it is not lost.

        Args:
            task: a task function or its name.
            args: its arguments, anything that JSON can say.
            kwargs: its keyword arguments.

        Raises:
            InvalidTask: it cannot be submitted as it is; nothing was sent.
            SubmissionRefused: the broker did not take it.
            SubmissionUnknown: no confirm within `publish_timeout`. Submit it again with ``options(task_id=...)`` and
                the id in the error: the same id is stored once.
            ClientClosed: the client is closed.
        """
        chosen = self._chosen
        call: Call[Any] = Call(task, args, kwargs, queue=chosen.queue, priority=chosen.priority, task_id=chosen.task_id)
        return self._client()._submit(call, chosen.extra)

    def submit_many(self, calls: Iterable[Call[R]]) -> list[Handle[R]]:
        """Submit many tasks in few messages; returns when all are confirmed.

        Args:
            calls: what `common.call` makes. They are drawn and checked in chunks of 10,000, and a chunk is sent when
                all of it is right, so memory stays bounded apart from the handles.

        Raises:
            InvalidTask: nothing of the call's chunk was sent; a note names the calls before, which were submitted. The
                same for whatever `calls` itself raises.
            SubmissionRefused, SubmissionUnknown, ClientClosed: as in `submit`; `ids` has the id of each call that was
                drawn, in order.
        """
        return self._client()._submit_many(self._chosen.for_many(calls), self._chosen.extra)


class Client(Submitter, Administration):
    """A client of one namespace on one broker.

    It connects on first use, stays connected, reconnects for ever, and asks again for what it may have missed. It is
    safe to be used by many threads, to be kept for the life of a process, and across a fork.

    Args:
        url: ``amqp://`` or ``amqps://`` URL; by default the setting `amqp_url` (see `common.settings`).
        namespace: the prefix of every name; by default the setting `namespace`.
        max_task_bytes: bytes of one task's encoded arguments at most, up to 8 MiB; the scheduler has such a limit too.
        settings: any other of `common.settings.ClientSettings`, such as `publish_timeout` in seconds.

    Raises:
        SettingsError: with everything that is wrong.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        max_task_bytes: int = MAX_TASK_BYTES,
        **settings: Any,
    ) -> None:
        super().__init__(None)
        given = {"amqp_url": url, "namespace": namespace, **settings}
        loaded = load(ClientSettings, table="client", environ=os.environ, overrides=given)
        self._max_task_bytes = check_limit(max_task_bytes)
        self._link = Link(loaded)
        weakref.finalize(self, self._link.abandon).atexit = False

    def _client(self) -> Client:
        return self  # not kept in an attribute: the cycle would keep a forgotten client alive

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Whoever still waits gets `ClientClosed`; the tasks go on."""
        self._link.close()

    def handle(self, task_id: str) -> Handle[Any]:
        """A handle for a task that was submitted elsewhere, or earlier.

        Raises:
            InvalidTask: this is no task id.
        """
        check_task_id(task_id)
        with self._link.use() as core:
            known = core.waiting.find(task_id)
            if isinstance(known, Handle):
                return known
            handle: Handle[Any] = Handle(self, task_id, Any, foreign=True)
            core.waiting.register(handle, time.monotonic())
            core.waiting.ask_now(task_id)
        return handle

    def as_completed(self, handles: Iterable[Handle[R]], timeout: float | None = None) -> Iterator[Handle[R]]:
        """Yield each handle when its outcome is there, in the order in which they come.

        Args:
            handles: what to wait for.
            timeout: seconds for all of them together; None waits as long as they take.

        Raises:
            ResultTimeout: not all came in time; the tasks go on.
            ClientClosed: the client was closed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        ready: SimpleQueue[BaseHandle[Any]] = SimpleQueue()
        left = {id(handle): handle for handle in handles}
        core = None
        try:
            while left:
                if core is not self._link.core:  # at first, and in a child that was forked meanwhile
                    core = self._link.core
                    self._watch(left.values(), ready)
                done = _next(ready, deadline, "", f"{len(left)} tasks are not finished")
                handle = left.pop(id(done), None)
                if handle is not None:
                    handle._check_open()
                    yield handle
        finally:
            self._unwatch(left.values(), ready)

    def _submit(self, call: Call[Any], extra: TaskOptions | None) -> Handle[Any]:
        prepared = prepare(call, self._max_task_bytes, extra)
        settled: SimpleQueue[Ticket] = SimpleQueue()
        ticket = Ticket([prepared.task_id], settled.put)
        handle: Handle[Any] = Handle(self, prepared.task_id, prepared.result_type)
        with self._link.use() as core:
            now = time.monotonic()
            handle = core.claim(handle, now, content=prepared.content)
            core.outbox.add(prepared.task, ticket, now)
        settled.get()
        ticket.check()
        return handle

    def _submit_many(self, calls: Iterator[Call[R]], extra: TaskOptions | None) -> list[Handle[R]]:
        handles: list[Handle[R]] = []
        settled: SimpleQueue[Ticket] = SimpleQueue()
        ticket = Ticket([], settled.put)
        wrong: Exception | None = None
        while not ticket.faults:
            sent = len(handles)
            try:
                chunk = list(islice(calls, CHUNK))
                prepared = prepare_many(chunk, self._max_task_bytes, extra, first=sent, sent=sent)
            except Exception as error:  # noqa: BLE001 - `calls` is the caller's own code; raised below
                wrong = error
                break
            if not chunk:
                break
            self._send(prepared, ticket, settled, handles)
        while ticket.left:
            settled.get()
        ticket.check()
        if wrong is not None:
            raise noted(wrong, ticket.ids)
        return handles

    def _send(
        self, chunk: list[Prepared], ticket: Ticket, settled: SimpleQueue[Ticket], handles: list[Handle[R]]
    ) -> None:
        ticket.ids += [prepared.task_id for prepared in chunk]
        at = 0
        for tasks in split([prepared.task for prepared in chunk]):
            while ticket.left >= WINDOW:
                settled.get()
            if ticket.faults:
                return
            pack = Pack(tasks, [ticket])
            made: list[tuple[Handle[R], int | None]] = [
                (Handle(self, prepared.task_id, prepared.result_type), prepared.content)
                for prepared in chunk[at : at + len(tasks)]
            ]
            at += len(tasks)
            with self._link.use() as core:
                now = time.monotonic()
                handles += [core.claim(handle, now, content=content) for handle, content in made]
                core.outbox.add_pack(pack, now)

    def _wait(self, handle: Handle[Any], timeout: float | None) -> None:
        arrived: SimpleQueue[BaseHandle[Any]] = SimpleQueue()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._watch((handle,), arrived)
            _next(arrived, deadline, handle.id, f"task {handle.id} is not finished")
        finally:
            self._unwatch((handle,), arrived)
        handle._check_open()

    def _watch(self, handles: Iterable[BaseHandle[Any]], watcher: SimpleQueue[BaseHandle[Any]]) -> None:
        try:
            with self._link.use() as core:
                now = time.monotonic()
                for handle in handles:
                    core.watch(handle, watcher.put, now)
        except ClientClosed:
            for handle in handles:  # what is there is still given out
                watcher.put(handle)

    def _unwatch(self, handles: Iterable[BaseHandle[Any]], watcher: SimpleQueue[BaseHandle[Any]]) -> None:
        with self._link.lock:
            for handle in handles:
                handle._unwatch(watcher.put)

    def _status(self, handle: Handle[Any], timeout: float | None) -> TaskStatus:
        return self._inquire(lambda core: core.inquiries, handle, timeout)

    def _cancel(self, handle: Handle[Any], timeout: float | None) -> str:
        return self._inquire(lambda core: core.cancels, handle, timeout)

    def _inquire(self, of: Callable[[ClientCore], Inquiries[A]], handle: Handle[Any], timeout: float | None) -> A:
        deadline = None if timeout is None else time.monotonic() + timeout
        answered: SimpleQueue[Inquiry[A]] = SimpleQueue()
        inquiry: Inquiry[A] = Inquiry(handle.id, ours=handle._is_ours(), notify=answered.put)
        with self._link.use() as core:
            of(core).add(inquiry, time.monotonic())
        try:
            _next(answered, deadline, handle.id, f"no scheduler has said how task {handle.id} is")
        finally:
            with self._link.lock:
                of(self._link.core).drop(inquiry)
        return inquiry.result()


def _next(queue: SimpleQueue[T], deadline: float | None, task_id: str, otherwise: str) -> T:
    """The next item, or `ResultTimeout` at the deadline (monotonic seconds)."""
    try:
        left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
        return queue.get(timeout=left if left < TIMEOUT_MAX else None)
    except Empty:
        raise ResultTimeout(f"the wait is over: {otherwise}", task_id) from None

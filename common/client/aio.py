"""The client for asyncio: the same verbs as the sync client, awaited.

Example::

    async with AsyncClient() as client:
        handle = await client.options(queue="math", priority=5).submit("add", 2, 3)
        print(handle.id, await handle.result(timeout=10))
"""

# ruff: noqa: SLF001 - client, handles and their watchers are one unit
from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from common.client.aio_administration import AsyncAdministration
from common.client.aio_handle import AsyncHandle
from common.client.flow import Flow
from common.client.handles import BaseHandle
from common.client.inquiries import Inquiries, Inquiry
from common.client.messages import CHUNK, MAX_TASK_BYTES, Prepared, check_limit, noted, prepare, prepare_many
from common.client.options import NOTHING, Chosen
from common.client.packs import WINDOW, Pack, Ticket, split
from common.errors import ClientClosed, ResultTimeout
from common.options import TaskOptions
from common.questions import TaskStatus
from common.settings import ClientSettings, load
from common.tasks import Call, TaskFunction, check_task_id
from common.wire import MAX_PACK_ITEMS
from common.words import Words

__all__ = ["AsyncClient", "AsyncHandle", "AsyncSubmitter"]

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncSubmitter:
    """The verbs that submit, with options that hold for each call."""

    def __init__(self, client: AsyncClient | None, chosen: Chosen = NOTHING) -> None:
        self._owner = client
        self._chosen = chosen

    def _client(self) -> AsyncClient:
        assert self._owner is not None
        return self._owner

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        task_id: str | None = None,
        **words: Unpack[Words],
    ) -> AsyncSubmitter:
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
        return AsyncSubmitter(self._client(), self._chosen.and_also(queue, priority, task_id, words))

    @overload
    async def submit(
        self, task: TaskFunction[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncHandle[T]: ...

    @overload
    async def submit(self, task: TaskFunction[P, T], /, *args: P.args, **kwargs: P.kwargs) -> AsyncHandle[T]: ...

    @overload
    async def submit(self, task: str, /, *args: Any, **kwargs: Any) -> AsyncHandle[Any]: ...

    async def submit(self, task: TaskFunction[..., Any] | str, /, *args: Any, **kwargs: Any) -> AsyncHandle[Any]:
        """Submit one task; returns when the broker has confirmed it. From then on it is not lost.

        Submits that run at the same time share messages.

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
        return await self._client()._submit(call, chosen.extra)

    async def submit_many(self, calls: Iterable[Call[R]]) -> list[AsyncHandle[R]]:
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
        return await self._client()._submit_many(self._chosen.for_many(calls), self._chosen.extra)


class AsyncClient(AsyncSubmitter, AsyncAdministration):
    """A client of one namespace on one broker, for one event loop.

    It connects on first use, stays connected, reconnects for ever, and asks again for what it may have missed.

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
        self._flow = Flow(loaded)

    def _client(self) -> AsyncClient:
        return self

    async def __aenter__(self) -> Self:
        await self._flow.use()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Whoever still waits gets `ClientClosed`; the tasks go on."""
        await self._flow.close()

    def handle(self, task_id: str) -> AsyncHandle[Any]:
        """A handle for a task that was submitted elsewhere, or earlier. It is asked about when it is awaited.

        Raises:
            InvalidTask: this is no task id.
        """
        check_task_id(task_id)
        if self._flow.core.closed:
            raise ClientClosed("the client is closed")
        waiting = self._flow.core.waiting
        known = waiting.find(task_id)
        if isinstance(known, AsyncHandle):
            return known
        handle: AsyncHandle[Any] = AsyncHandle(self, task_id, Any, foreign=True)
        waiting.register(handle, time.monotonic())
        waiting.ask_now(task_id)
        self._flow.rouse()
        return handle

    async def as_completed(
        self, handles: Iterable[AsyncHandle[R]], timeout: float | None = None
    ) -> AsyncIterator[AsyncHandle[R]]:
        """Yield each handle when its outcome is there, in the order in which they come.

        Args:
            handles: what to wait for.
            timeout: seconds for all of them together; None waits as long as they take.

        Raises:
            ResultTimeout: not all came in time; the tasks go on.
            ClientClosed: the client was closed meanwhile.
        """
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        ready: deque[BaseHandle[Any]] = deque()
        arrived = asyncio.Event()

        def arrive(handle: BaseHandle[Any]) -> None:
            ready.append(handle)
            arrived.set()

        left = {id(handle): handle for handle in handles}
        try:
            await self._watch(left.values(), arrive)
            while left:
                while not ready:
                    arrived.clear()
                    async with _limited(deadline, "", f"{len(left)} tasks are not finished"):
                        await arrived.wait()
                handle = left.pop(id(ready.popleft()), None)
                if handle is not None:
                    handle._check_open()
                    yield handle
        finally:
            for handle in left.values():
                handle._unwatch(arrive)

    async def _submit(self, call: Call[Any], extra: TaskOptions | None) -> AsyncHandle[Any]:
        prepared = prepare(call, self._max_task_bytes, extra)
        core = await self._flow.use()
        settled = asyncio.get_running_loop().create_future()
        ticket = Ticket([prepared.task_id], partial(_settle, settled))
        now = time.monotonic()
        handle: AsyncHandle[Any] = AsyncHandle(self, prepared.task_id, prepared.result_type)
        handle = core.claim(handle, now, content=prepared.content)
        core.outbox.add(prepared.task, ticket, now)
        self._flow.rouse()
        await settled
        ticket.check()
        return handle

    async def _submit_many(self, calls: Iterator[Call[R]], extra: TaskOptions | None) -> list[AsyncHandle[R]]:
        handles: list[AsyncHandle[R]] = []
        settled = asyncio.Event()
        ticket = Ticket([], lambda _: settled.set())
        wrong: Exception | None = None
        while not ticket.faults:
            try:
                chunk = await self._chunk(calls, extra, len(handles))
            except Exception as error:  # noqa: BLE001 - `calls` is the caller's own code; raised below
                wrong = error
                break
            if not chunk:
                break
            await self._send(chunk, ticket, settled, handles)
        await _until(ticket, 1, settled)
        ticket.check()
        if wrong is not None:
            raise noted(wrong, ticket.ids)
        return handles

    async def _chunk(self, calls: Iterator[Call[R]], extra: TaskOptions | None, sent: int) -> list[Prepared]:
        """Check and encode the next calls, and let the loop breathe meanwhile."""
        chunk: list[Prepared] = []
        while len(chunk) < CHUNK and (some := list(islice(calls, MAX_PACK_ITEMS))):
            chunk += prepare_many(some, self._max_task_bytes, extra, first=sent + len(chunk), sent=sent)
            await asyncio.sleep(0)
        return chunk

    async def _send(
        self, chunk: list[Prepared], ticket: Ticket, settled: asyncio.Event, handles: list[AsyncHandle[R]]
    ) -> None:
        ticket.ids += [prepared.task_id for prepared in chunk]
        at = 0
        for tasks in split([prepared.task for prepared in chunk]):
            await _until(ticket, WINDOW, settled)
            if ticket.faults:
                return
            core, now = await self._flow.use(), time.monotonic()
            for prepared in chunk[at : at + len(tasks)]:
                handle: AsyncHandle[R] = AsyncHandle(self, prepared.task_id, prepared.result_type)
                handles.append(core.claim(handle, now, content=prepared.content))
            at += len(tasks)
            core.outbox.add_pack(Pack(tasks, [ticket]), now)
            self._flow.rouse()
            await asyncio.sleep(0)

    async def _wait(self, handle: AsyncHandle[Any], timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        watcher = partial(_settle, arrived)
        try:
            await self._watch((handle,), watcher)
            if timeout is None:
                await arrived
            else:
                async with _limited(loop.time() + timeout, handle.id, f"task {handle.id} is not finished"):
                    await arrived
        finally:
            handle._unwatch(watcher)
        handle._check_open()

    async def _watch(self, handles: Iterable[BaseHandle[Any]], watcher: Callable[[BaseHandle[Any]], None]) -> None:
        try:
            core = await self._flow.use()
        except ClientClosed:
            core = self._flow.core  # what is there is still given out
        now = time.monotonic()
        for handle in handles:
            core.watch(handle, watcher, now)
        self._flow.rouse()

    async def _status(self, handle: AsyncHandle[Any], timeout: float | None) -> TaskStatus:
        core = await self._flow.use()
        return await self._inquire(core.inquiries, handle, timeout)

    async def _cancel(self, handle: AsyncHandle[Any], timeout: float | None) -> str:
        core = await self._flow.use()
        return await self._inquire(core.cancels, handle, timeout)

    async def _inquire(self, inquiries: Inquiries[A], handle: AsyncHandle[Any], timeout: float | None) -> A:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()
        inquiry: Inquiry[A] = Inquiry(handle.id, ours=handle._is_ours(), notify=partial(_settle, answered))
        inquiries.add(inquiry, time.monotonic())
        self._flow.rouse()
        deadline = None if timeout is None else loop.time() + timeout
        try:
            async with _limited(deadline, handle.id, f"no scheduler has said how task {handle.id} is"):
                await answered
        finally:
            inquiries.drop(inquiry)
        return inquiry.result()


def _settle(future: asyncio.Future[None], _: object) -> None:
    if not future.done():
        future.set_result(None)


async def _until(ticket: Ticket, left: int, settled: asyncio.Event) -> None:
    """Wait until fewer than `left` packs of the ticket are unsettled."""
    while ticket.left >= left:
        settled.clear()
        await settled.wait()


@asynccontextmanager
async def _limited(deadline: float | None, task_id: str, otherwise: str) -> AsyncIterator[None]:
    """Raise `ResultTimeout` when the block is not done at the deadline (seconds of the loop's clock)."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise ResultTimeout(f"the wait is over: {otherwise}", task_id) from None

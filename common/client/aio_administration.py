"""What operators see and do, awaited: queues, workers, quotas, moving, commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Unpack

from msgspec import UNSET, UnsetType

from common.administration import Change, CommandAnswers, QueueReport, WorkerReport
from common.client import orders
from common.client.aio_questions import AsyncQuestions
from common.client.filters import Which, filters
from common.client.inquiries import ANSWER_TIMEOUT
from common.client.orders import ChangePages, QueuePages, RearrangePages, WorkerPages
from common.client.pages import CancelPages
from common.quotas import Quota, Rate


class AsyncAdministration(AsyncQuestions):
    """The verbs of a client that are about what all tasks share.

    Everybody may look. Who changes quotas or commands workers has to be an operator: a broker user named by the
    scheduler's setting `operators`, or the scheduler's own; others may move and purge their own tasks. In all of them
    `timeout` is the seconds to wait for each answer of the scheduler, None for ever.
    """

    async def queues(self, *names: str, timeout: float | None = ANSWER_TIMEOUT) -> list[QueueReport]:
        """Describe the queues: what waits, what comes and goes, how long it will take, and why nothing is dispatched.

        Args:
            names: only these; none: all.
            timeout: seconds to wait for the answer; None waits for ever.

        Raises:
            InvalidFilter: no queue can have such a name.
            ResultTimeout: no scheduler answered in time.
            ClientClosed: the client was closed meanwhile.

        Example::

            for queue in await client.queues():
                print(queue.name, queue.queued, queue.drain_seconds)
        """
        return [queue async for queue in self._items(QueuePages(names), timeout)]

    async def workers(self, *, timeout: float | None = ANSWER_TIMEOUT) -> list[WorkerReport]:
        """Describe the workers as their last beats do, and those that were lost within the last ten minutes.

        Raises:
            ResultTimeout, ClientClosed: as in `queues`.
        """
        return [worker async for worker in self._items(WorkerPages(), timeout)]

    async def quotas(self, scope: str | None = None, *, timeout: float | None = ANSWER_TIMEOUT) -> list[Quota]:
        """List the quotas that were set.

        Args:
            scope: only those of a ``queue``, ``task`` or ``key``; None: all. Those of keys are told to operators only.
            timeout: seconds to wait for the answer; None waits for ever.

        Raises:
            InvalidQuota: there is no such scope.
            ResultTimeout, ClientClosed: as in `queues`.
        """
        return [quota async for quota in self._items(orders.list_quotas(scope), timeout)]

    async def set_quota(
        self,
        scope: str,
        name: str,
        *,
        weight: float | UnsetType = UNSET,
        rate: str | Rate | UnsetType | None = UNSET,
        concurrency: int | UnsetType | None = UNSET,
        paused: bool | UnsetType = UNSET,
        ageing: float | timedelta | UnsetType | None = UNSET,
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> Quota:
        """Change what a queue, a task function or a fairness key may have, at once and for the whole system.

        What is left out stays as it is; None takes a limit away.

        Args:
            scope: ``queue``, ``task`` or ``key``.
            name: of the queue, the task function or the key.
            weight: its share beside others that have work, from 0.001 to 1000; not of a task function.
            rate: how many may start in a span of time, such as ``100/s``, ``90/m``, ``3/10s``.
            concurrency: how many may be dispatched and unfinished at a time.
            paused: nothing of it is dispatched.
            ageing: of a queue: seconds of waiting, or a `timedelta`, that count as one step of priority.
            timeout: seconds to wait for the answer; None waits for ever.

        Returns:
            The quota as it is now. It is not `known` when no task and no live worker has named this queue so far.

        Raises:
            InvalidQuota: no quota can be like this, or nothing is to be changed.
            NotAllowed: the client's user is no operator.
            ResultTimeout, ClientClosed: as in `queues`. After a `ResultTimeout` it may have been changed; doing it
                again is safe.

        Example::

            await client.set_quota("key", "customer-7", weight=3, concurrency=20)
        """
        said = {"weight": weight, "rate": rate, "concurrency": concurrency, "paused": paused, "ageing": ageing}
        (quota,) = [quota async for quota in self._items(orders.set_quota(scope, name, **said), timeout)]  # type: ignore[arg-type]
        return quota

    async def pause(self, queue: str, *, timeout: float | None = ANSWER_TIMEOUT) -> Quota:
        """Dispatch nothing more of a queue; what is out is finished.

        Raises:
            InvalidQuota, NotAllowed, ResultTimeout, ClientClosed: as in `set_quota`.
        """
        return await self.set_quota("queue", queue, paused=True, timeout=timeout)

    async def resume(self, queue: str, *, timeout: float | None = ANSWER_TIMEOUT) -> Quota:
        """Dispatch a paused queue again.

        Raises:
            InvalidQuota, NotAllowed, ResultTimeout, ClientClosed: as in `set_quota`.
        """
        return await self.set_quota("queue", queue, paused=False, timeout=timeout)

    async def move(
        self,
        to: str,
        *,
        timeout: float | None = ANSWER_TIMEOUT,
        on_page: Callable[[Sequence[str]], None] | None = None,
        **which: Unpack[Which],
    ) -> int:
        """Move tasks that wait, queued or scheduled, to another queue.

        Args:
            to: the queue.
            timeout, which: as in `AsyncClient.tasks`; something has to be said.
            on_page: called with ids as the answers come.

        Returns:
            How many tasks are there now by this, or were before.

        Raises:
            InvalidFilter: these words can be true of no such task, or there can be no such queue.
            ResultTimeout, ClientClosed: as in `queues`. After a `ResultTimeout` some may have been moved; doing it
                again is safe.
        """
        return await self._rearranged(RearrangePages(filters(which), queue=to), timeout, on_page)

    async def reprioritise(
        self,
        priority: int,
        *,
        timeout: float | None = ANSWER_TIMEOUT,
        on_page: Callable[[Sequence[str]], None] | None = None,
        **which: Unpack[Which],
    ) -> int:
        """Give tasks that wait, queued or scheduled, another priority.

        Args:
            priority: 0 (last) to 9 (first).
            timeout, on_page, which: as in `move`.

        Returns:
            How many tasks have it now by this, or had it before.

        Raises:
            InvalidFilter, ResultTimeout, ClientClosed: as in `move`.
        """
        return await self._rearranged(RearrangePages(filters(which), priority=priority), timeout, on_page)

    async def purge(
        self,
        queue: str,
        *,
        timeout: float | None = ANSWER_TIMEOUT,
        on_page: Callable[[Sequence[tuple[str, str]]], None] | None = None,
    ) -> int:
        """Cancel all that waits in a queue, queued or scheduled; what is out is finished.

        Args:
            queue: which.
            timeout: as in `queues`.
            on_page: called with ids and states as the answers come.

        Returns:
            How many tasks were cancelled by this.

        Raises:
            InvalidFilter, ResultTimeout, ClientClosed: as in `move`.
        """
        cancelled = 0
        async for page in self._pages(CancelPages(filters({"queue": queue, "state": orders.WAITING})), timeout):
            cancelled += sum(state == "cancelled" for _, state in page)
            if on_page is not None:
                on_page(page)
        return cancelled

    async def command(
        self,
        verb: str,
        *workers: str,
        slots: int | None = None,
        level: str | None = None,
        within: float = 2.0,
        timeout: float | None = ANSWER_TIMEOUT,
    ) -> CommandAnswers:
        """Have workers do something, and collect what they answer.

        Args:
            verb: ``ping``, ``stats``, ``stacks``, ``drain``, ``resume``, ``slots``, ``shutdown`` or ``log-level``.
            workers: ids of workers, or beginnings of ids; none: all.
            slots: with ``slots``: how many tasks each of them is to run at a time.
            level: with ``log-level``: ``debug``, ``info``, ``warning`` or ``error``.
            within: seconds that the workers have to answer, at most 30.
            timeout: seconds to wait for each answer of the scheduler; None waits for ever.

        Returns:
            What each has answered (`answers`; `data` is raw JSON), and who has not (`missing`).

        Raises:
            InvalidFilter: there is no such verb, or no such worker.
            NotAllowed: the client's user is no operator.
            ResultTimeout, ClientClosed: as in `queues`. After a `ResultTimeout` it may have been done.

        Example::

            for answer in (await client.command("stacks")).answers:
                print(answer.worker, msgspec.json.decode(answer.data))
        """
        pages = orders.command(verb, workers, within=within, slots=slots, level=level)
        (answers,) = [answers async for answers in self._items(pages, timeout)]
        return answers

    def changes(self, *, limit: int | None = None, timeout: float | None = ANSWER_TIMEOUT) -> AsyncIterator[Change]:
        """List what operators have changed, the newest first, page by page as they are drawn.

        Args:
            limit: changes at most; None for all that are kept.
            timeout: as in `queues`.

        Raises:
            InvalidFilter: the limit is no positive number.
            ResultTimeout, ClientClosed: as in `queues` (while they are drawn).
        """
        return self._items(ChangePages(limit), timeout)

    async def _rearranged(
        self, pages: RearrangePages, timeout: float | None, on_page: Callable[[Sequence[str]], None] | None
    ) -> int:
        done = 0
        async for page in self._pages(pages, timeout):
            done += len(page)
            if on_page is not None:
                on_page(page)
        return done

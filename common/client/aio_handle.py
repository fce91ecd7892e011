"""A task as its submitter holds it, in the client for asyncio."""

# ruff: noqa: SLF001 - client, handles and their watchers are one unit
from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar

from common.client.handles import UNKNOWN, BaseHandle
from common.client.inquiries import ANSWER_TIMEOUT
from common.client.updates import INTERVAL, SHORTEST, Changes, Update
from common.errors import ResultTimeout, UnknownTask
from common.questions import Progress, TaskStatus

if TYPE_CHECKING:
    from common.client.aio import AsyncClient

R = TypeVar("R")


class AsyncHandle(BaseHandle[R]):
    """One submitted task. Keep it to be told the outcome; drop it and nothing of it stays in memory."""

    __slots__ = ("_client",)

    def __init__(self, client: AsyncClient, task_id: str, result_type: Any, *, foreign: bool = False) -> None:
        super().__init__(task_id, result_type, foreign=foreign)
        self._client = client

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the outcome and return the result.

        Args:
            timeout: seconds to wait; None waits as long as the task takes.

        Raises:
            TaskFailed: the task failed, with type, message and traceback of the remote error.
            TaskCancelled, TaskExpired: it ended without having been run to its end.
            UnknownTask: the scheduler has no such task (only for handles made by `AsyncClient.handle`).
            ResultTimeout: the wait ended; the task goes on.
            ClientClosed: the client was closed meanwhile.
        """
        if self._outcome is None:
            await self._client._wait(self, timeout)
        return self._value()

    async def status(self, timeout: float | None = ANSWER_TIMEOUT) -> TaskStatus:
        """Ask the scheduler how the task is now.

        Args:
            timeout: seconds to wait for the answer; None waits for ever.

        Raises:
            UnknownTask, ResultTimeout, ClientClosed: as in `result`.
        """
        return await self._client._status(self, timeout)

    async def progress(self, timeout: float | None = ANSWER_TIMEOUT) -> Progress | None:
        """Ask how far the task is, by its own word. None while it does not run, or has said nothing.

        Args:
            timeout: seconds to wait for the answer; None waits for ever.

        Raises:
            UnknownTask, ResultTimeout, ClientClosed: as in `result`.
        """
        return (await self.status(timeout)).progress

    async def updates(self, timeout: float | None = None, *, interval: float = INTERVAL) -> AsyncIterator[Update]:
        """Follow the task: yields when something about it has changed, and ends when it is finished for good.

        Args:
            timeout: seconds for all of it; None follows it as long as it takes.
            interval: seconds between two looks, 0.1 or more. The end is seen at once in any case.

        Yields:
            A `TaskStatus` when the task has changed, at first and at last as well; its `Progress` when only that has.

        Raises:
            UnknownTask, ResultTimeout, ClientClosed: as in `result`.

        Example::

            async for update in handle.updates():
                if isinstance(update, Progress):
                    print(update.done, update.total, update.note)
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        changes = Changes()
        while True:
            update = changes.take(await self._look(deadline))
            if update is not None:
                yield update
            if changes.over:
                return
            pause = max(SHORTEST, interval)
            left = pause if deadline is None else max(0.0, deadline - time.monotonic())
            await self._pause(min(pause, left))
            if left < pause and self._outcome is None:
                raise ResultTimeout(f"the wait is over: task {self.id} is not finished", self.id)

    async def cancel(self, timeout: float | None = ANSWER_TIMEOUT) -> str:
        """Cancel the task, wherever it is, and return the state that it has now.

        That is ``cancelled``, for good, also when it is running: whatever it does from now on changes nothing. If its
        outcome was stored first, it is that one: ``succeeded``, ``failed`` or ``expired``.

        Args:
            timeout: seconds to wait for the answer; None waits for ever. After it the task may be cancelled or not;
                cancelling it again is safe.

        Raises:
            UnknownTask, ResultTimeout, ClientClosed: as in `result`.
        """
        return await self._client._cancel(self, timeout)

    async def _look(self, deadline: float | None) -> TaskStatus:
        left = None if deadline is None else max(SHORTEST, deadline - time.monotonic())
        try:
            return await self.status(left)
        except (UnknownTask, ResultTimeout):
            outcome = self._outcome
            if outcome is None or outcome.state == UNKNOWN:
                raise
            return TaskStatus(self.id, outcome.state, error=outcome.error)  # removed after its retention

    async def _pause(self, seconds: float) -> None:
        """Wait for the outcome, for a while."""
        try:
            await self._client._wait(self, seconds)
        except ResultTimeout:
            return

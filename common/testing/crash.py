"""What the harness does when a service inside it crashes: the test ends at once, and says why.

As a task group does it (`asyncio.TaskGroup`): the task that entered the harness is cancelled where it waits, and on
leaving that cancellation becomes the error. It may wait for anything; nothing of it would come any more.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from common.client.aio import AsyncClient, AsyncHandle
from common.errors import ClientClosed, HarnessError


class Crash:
    """Guards the task that has entered a harness."""

    def __init__(self) -> None:
        self._test: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._failure: HarnessError | None = None
        self._client: AsyncClient | None = None
        self._closing: asyncio.Task[None] | None = None

    def guard(self, client: AsyncClient) -> None:
        """The current task has entered the harness.

        Args:
            client: closed by a crash, so that other tasks that wait for a result go on.

        Raises:
            HarnessError: a service has crashed already.
        """
        self.check()
        self._test, self._client = asyncio.current_task(), client

    def happened(self, service: str, part: str, error: BaseException) -> None:
        """A service ends, because `part` of it raised `error`. The first one counts."""
        if self._failure is not None:
            return
        self._failure = HarnessError(f"the {service} ended by itself ({part}): {type(error).__name__}: {error}")
        self._failure.__cause__ = error
        if self._client is not None:
            self._closing = asyncio.get_running_loop().create_task(self._client.close(), name="close the client")
        if self._test is not None and not self._test.done():
            self._cancelled = self._test.cancel()

    def check(self) -> None:
        """Raise what has happened.

        Raises:
            HarnessError: a service has crashed.
        """
        if self._failure is not None:
            raise self._failure

    async def leave(self, error: BaseException | None) -> bool:
        """The harness is left, because of `error` if there is one. Whether somebody else has cancelled the test."""
        test, self._test, self._client = self._test, None, None
        cancelled = isinstance(error, asyncio.CancelledError)
        if not self._cancelled or test is not asyncio.current_task():
            return cancelled
        assert test is not None
        others = test.uncancel()
        if not cancelled:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # where it comes, if it has not come yet
        return cancelled and others > 0

    def raise_over(self, error: BaseException | None) -> None:
        """Raise what has happened in place of what the test has raised.

        Raises:
            HarnessError: a service has crashed.
        """
        failure = self._failure
        if failure is None or error is failure:
            return
        if error is not None and not isinstance(error, asyncio.CancelledError):
            failure.add_note(f"The test had failed with {type(error).__name__}: {error}")
        raise failure


class GuardedClient(AsyncClient):
    """A client whose calls raise what has crashed, also in tasks that have not entered the harness.

    Args:
        crash: knows it.
        url, namespace: as of `AsyncClient`.
    """

    def __init__(self, crash: Crash, url: str, *, namespace: str) -> None:
        super().__init__(url, namespace=namespace)
        self._crash = crash

    async def _wait(self, handle: AsyncHandle[Any], timeout: float | None) -> None:
        try:
            await super()._wait(handle, timeout)
        except ClientClosed:
            self._crash.check()
            raise

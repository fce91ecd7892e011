"""The async client's background work in its event loop: it looks at the core when there may be something to do, sends
what is due, and comes back when the next thing is."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

from common.client.core import ClientCore
from common.errors import ClientClosed
from common.settings import BrokerSettings

if TYPE_CHECKING:
    from common.client.aio_session import AsyncSession

_SHORTEST: Final = 0.01
_ANOTHER_LOOP: Final = "this client belongs to another event loop; make one for each loop"


class Flow:
    """What moves the core of one async client. It belongs to the event loop in which it was first used.

    Args:
        settings: the broker and the timeouts.

    Attributes:
        core: what the client knows.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.core = ClientCore(settings.publish_timeout)
        self._settings = settings
        self._session: AsyncSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._roused = False

    async def use(self) -> ClientCore:
        """The core, to be used without awaiting anything before `rouse`. Starts to connect on first use.

        Raises:
            ClientClosed: the client is closed.
            RuntimeError: the client belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop and self._loop is not None:
            raise RuntimeError(_ANOTHER_LOOP)
        if self.core.closed:
            raise ClientClosed("the client is closed")
        if self._session is None:
            self._loop = loop
            await self._open().start()
        return self.core

    def rouse(self) -> None:
        """Look at the core after the present step of the loop, so that calls that meet share messages."""
        if not self._roused and self._loop is not None:
            self._roused = True
            self._loop.call_soon(self._work)

    async def close(self) -> None:
        """Close the connection; callers that wait get `ClientClosed`. May be called again.

        Raises:
            RuntimeError: the client belongs to another event loop, which still goes on.
        """
        if self._loop is not None and self._loop is not asyncio.get_running_loop() and not self._loop.is_closed():
            raise RuntimeError(_ANOTHER_LOOP)
        self.core.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._session is not None and self._loop is asyncio.get_running_loop():
            await self._session.stop()

    def _open(self) -> AsyncSession:
        from common.client.aio_session import AsyncSession  # aio-pika is imported on first use

        self._session = AsyncSession(self._settings, self.core, self.rouse)
        return self._session

    def _work(self) -> None:
        """Send what can be sent now, and come back when the next thing is due."""
        self._roused = False
        core, session, now = self.core, self._session, time.monotonic()
        if core.closed or session is None:
            return
        if session.failure and not core.is_connected:
            core.trouble = session.failure
        core.expire(now)
        if session.can_submit:
            for pack in core.outbox.take():
                session.submit(pack)
        for question, ask in core.asks(now):
            session.ask(question, ask)
        self._work_in(core.wake_at() - now)

    def _work_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds != math.inf and self._loop is not None:
            self._timer = self._loop.call_later(max(_SHORTEST, seconds), self._work)

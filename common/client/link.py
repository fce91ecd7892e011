"""The sync client's I/O thread: it connects on first use, stays connected, and feeds the core.

Callers' threads only put work into the core, under its lock, and write one byte into a pipe; everything else happens
here. The thread is a daemon, because Python joins the others before it runs exit handlers, and a client that somebody
forgot to close would hang the interpreter; an exit handler closes it in good order instead.

After a fork the child has a copy of the connection without its thread. It must neither use the parent's socket nor keep
it open, so it puts ``/dev/null`` in its place, starts anew with an empty core, and connects when it is used.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from common.backoff import reconnect_wait
from common.client.core import ClientCore
from common.client.doorbell import Doorbell
from common.client.packs import Pack
from common.errors import ClientClosed
from common.settings import BrokerSettings
from common.topology import Topology

if TYPE_CHECKING:
    from common.client.session import Loop, Session

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that the broker has to answer our close."""
_SHORTEST: Final = 0.01

log = logging.getLogger(__name__)


class Link:
    """The I/O thread of one client.

    Args:
        settings: the broker and the timeouts.

    Attributes:
        lock: held for every use of `core`.
        core: what the client knows.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._topology = Topology(settings.namespace)
        self._inherited: list[Any] = []
        """The parent's connection, in a forked child: kept, so that nothing of it is ever finalised here."""
        self._reset()
        _links.add(self)

    def _reset(self) -> None:
        self.lock = threading.Lock()
        self.core = ClientCore(self._settings.publish_timeout)
        self._thread: threading.Thread | None = None
        self._loop: Loop | None = None
        self._session: Session | None = None
        self._doorbell = Doorbell()
        self._abandoned = False
        self._failures = 0
        self._timer: object = None

    @contextmanager
    def use(self) -> Iterator[ClientCore]:
        """Use the core, under its lock, and let the I/O thread look at it afterwards; starts the thread on first use.

        Raises:
            ClientClosed: the client is closed.
        """
        with self.lock:
            if self.core.closed:
                raise ClientClosed("the client is closed")
            self._start()
            yield self.core
        self._doorbell.ring()

    def abandon(self) -> None:
        """Let the I/O thread end by itself. Takes no lock, so that it can be called while garbage is collected."""
        self._abandoned = True
        self._doorbell.ring()

    def close(self) -> None:
        """Close the connection and end the thread; callers that wait get `ClientClosed`. May be called again."""
        with self.lock:
            self.core.close()
            thread = self._thread
        self.abandon()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT + 1.0)

    def forked(self) -> None:
        """Start anew in a child process."""
        if self._loop is not None:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in self._loop.watched - {self._doorbell.fd}:
                os.dup2(null, fd)
            os.close(null)
            self._inherited += [self._loop, self._session]
        closed = self.core.closed
        self._reset()
        self.core.closed = closed

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="warren.client", daemon=True)
        self._thread.start()

    # Everything below runs in the I/O thread.

    def _run(self) -> None:
        try:
            while not self._abandoned:
                self._serve()
        finally:
            with self.lock:
                self.core.close()

    def _serve(self) -> None:
        from common.client.session import Loop  # pika is imported on first use

        loop = self._loop = Loop()
        try:
            loop.add_handler(self._doorbell.fd, self._on_ring, loop.READ)
            self._connect()
            loop.start()
        except Exception:
            log.exception("the client's I/O thread met a fault of its own, and connects anew")
            time.sleep(min(1.0, reconnect_wait(self._failures)))
            self._failures += 1
        finally:
            self._session = None
            with self.lock:
                self.core.disconnected("a fault in the client")
            loop.close()

    def _on_ring(self, fd: int, events: int) -> None:
        self._doorbell.answer()
        if self._abandoned:
            self._end()
        else:
            self._work()

    def _end(self) -> None:
        assert self._loop is not None
        with self.lock:
            self.core.close()
        if self._session is None:
            self._loop.stop()
            return
        self._loop.call_later(CLOSE_TIMEOUT, self._loop.stop)
        self._session.close()

    def _work(self) -> None:
        """Send what can be sent now, and come back when the next thing is due."""
        session, now = self._session, time.monotonic()
        ready = session is not None and session.ready
        with self.lock:
            core = self.core
            core.expire(now)
            packs = core.outbox.take() if ready else []
            asks = list(core.asks(now)) if ready else []
            wake_at = core.wake_at()
        assert session is not None or not ready
        if session is not None:
            for pack in packs:
                session.publish(pack)
            for question, ask in asks:
                session.ask(question, ask)
        self._work_at(wake_at, now)

    def _work_at(self, wake_at: float, now: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None
        if not math.isinf(wake_at) or wake_at < 0:
            self._timer = self._loop.call_later(max(_SHORTEST, wake_at - now), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._work()

    def _connect(self) -> None:
        from common.client.session import Session

        assert self._loop is not None
        if not self._abandoned:
            self._session = Session(self._loop, self._settings, self._topology, self)

    def session_ready(self) -> None:
        """See `common.client.session.Owner`, also for the methods below."""
        self._failures = 0
        with self.lock:
            if not self.core.is_connected:  # otherwise only publishing had stopped for a while
                self.core.connected(time.monotonic())
        self._work()

    def session_lost(self, reason: str) -> None:
        assert self._loop is not None
        self._session = None
        with self.lock:
            self.core.disconnected(reason)
        if self._abandoned:
            self._loop.stop()
            return
        wait = reconnect_wait(self._failures)
        level = logging.DEBUG if self._failures else logging.WARNING  # once for each time that it is away
        log.log(level, "no connection to the broker, trying on: %s", reason, extra={"wait_seconds": round(wait, 3)})
        self._failures += 1
        self._loop.call_later(wait, self._connect)
        self._work()

    def message_arrived(self, kind: str | None, body: bytes, question: str | None) -> None:
        with self.lock:
            self.core.arrived(kind, body, question, time.monotonic())
        if question is not None:
            self._work()

    def pack_confirmed(self, pack: Pack) -> None:
        with self.lock:
            self.core.outbox.confirmed(pack)
        self._work()

    def pack_refused(self, pack: Pack, reason: str) -> None:
        with self.lock:
            self.core.outbox.refused(pack, reason)
        self._work()

    def publishing_closed(self, reason: str) -> None:
        with self.lock:
            self.core.outbox.channel_closed(reason)

    def exchange_missing(self) -> None:
        with self.lock:
            self.core.outbox.exchange_missing()

    def exchange_refused(self, reason: str) -> None:
        with self.lock:
            self.core.outbox.refuse_all(reason)


_links: WeakSet[Link] = WeakSet()


def _close_all() -> None:
    for link in list(_links):
        link.close()


def _fork_all() -> None:
    for link in list(_links):
        link.forked()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_all)

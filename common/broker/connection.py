"""One AMQP connection, kept alive by one supervisor.

Not aio-pika's robust connection: that one restores on the same channel and waits a fixed five seconds, so that a
herd of workers comes back at the same instant. Here the supervisor connects, runs the registered set-up callbacks
(declare topology, take a lock), and only then is the connection *ready*. Whoever uses it opens channels of its own
and opens them anew after a loss::

    connecting --connected--> set up --callbacks done--> ready --lost--> waiting (full jitter) --> connecting
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from urllib.parse import unquote, urlencode, urlsplit

import aio_pika
import aiormq.abc
from aio_pika.abc import AbstractConnection

from common.backoff import reconnect_wait
from common.broker.faults import translated
from common.errors import BrokerError, ConnectionLost
from common.events import BrokerConnected, BrokerLost
from common.settings import BrokerSettings
from common.telemetry import Telemetry

STEADY = 10.0
"""Seconds after which a connection counts as steady: when it is lost, the next one is tried soon."""

log = logging.getLogger(__name__)


class Connection:
    """A supervised connection.

    Args:
        url: ``amqp://`` or ``amqps://`` URL with the credentials.
        name: how the connection shows in the broker's management pages.
        heartbeat: seconds between heartbeats; a silent peer is given up after about two of them.
        connect_timeout: seconds for one try to connect and set up.
        telemetry: where `BrokerConnected` and `BrokerLost` go.
        label: how it is called in events and metrics, from a small set; by default the name.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        heartbeat: int,
        connect_timeout: float,
        telemetry: Telemetry,
        label: str = "",
    ) -> None:
        self._url = url
        self.name = name
        self.label = label or name
        self._heartbeat = heartbeat
        self._connect_timeout = connect_timeout
        self._telemetry = telemetry
        self._callbacks: list[Callable[[], Awaitable[None]]] = []
        self._lost_callbacks: list[Callable[[], None]] = []
        self._raw: AbstractConnection | None = None
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self._supervisor: asyncio.Task[None] | None = None
        self.failure = ""
        """Why the last try failed; empty when ready."""
        self.server_version = ""
        self.user = unquote(urlsplit(url).username or "guest")

    @classmethod
    def of(cls, settings: BrokerSettings, *, name: str, label: str, telemetry: Telemetry) -> Connection:
        """The connection that these settings describe; the other arguments are those of the class."""
        if urlsplit(settings.amqp_url).scheme == "memory":
            from common.broker.memory import MemoryConnection

            cls = MemoryConnection
        return cls(
            _address(settings),
            name=name,
            label=label,
            heartbeat=settings.heartbeat,
            connect_timeout=settings.connect_timeout,
            telemetry=telemetry,
        )

    @property
    def connected(self) -> bool:
        """True from the end of the set-up until the loss."""
        return self._ready.is_set()

    def on_connected(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Run `callback` after each connect, in order of registration, before the connection is ready."""
        self._callbacks.append(callback)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each loss, in order of registration, before the next try to connect."""
        self._lost_callbacks.append(callback)

    async def start(self) -> None:
        """Start the supervisor; returns at once. Await `ready` for the connection."""
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name=f"supervise {self.name}")

    async def ready(self, timeout: float | None = None) -> None:
        """Wait until the connection is ready.

        Args:
            timeout: seconds to wait, or None to wait for ever.

        Raises:
            ConnectionLost: not ready in time; the text says what the last try failed with.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise ConnectionLost(f"no connection to the broker ({self.name}): {self.failure}") from None

    async def drain(self) -> None:
        """Nothing: those who use the connection drain."""

    async def stop(self) -> None:
        """Close the connection and end the supervisor."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])
        await self._close()

    async def open_channel(self, *, confirms: bool = False) -> Channel:
        """A new channel.

        Args:
            confirms: publisher confirms on, unroutable messages raise.

        Raises:
            ConnectionLost: there is no connection now.
        """
        raw = self._raw
        if raw is None or raw.is_closed:
            raise ConnectionLost(f"no connection to the broker ({self.name})")
        with translated("open a channel"):
            async with asyncio.timeout(self._connect_timeout):
                channel = raw.channel(publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                return await channel.get_underlay_channel()

    async def _supervise(self) -> None:
        failures = 0
        while True:
            try:
                await self._connect()
            except (BrokerError, TimeoutError) as error:
                reason = str(error) or f"no answer within {self._connect_timeout:g} s"
                self.failure = reason
                log.warning("cannot connect to the broker", extra={"connection": self.name, "reason": reason})
                await self._close()
                await asyncio.sleep(reconnect_wait(failures))
                failures += 1
                continue
            except Exception as error:
                # A fault of ours or of a library: without a supervisor the service would stay unconnected for ever.
                self.failure = str(error)
                log.exception("connecting to the broker failed", extra={"connection": self.name})
                await self._close()
                await asyncio.sleep(reconnect_wait(failures))
                failures += 1
                continue
            self.failure = ""
            connected_at = time.monotonic()
            self._ready.set()
            self._telemetry.emit(BrokerConnected(self.label, self.server_version))
            log.info("connected to the broker", extra={"connection": self.name, "server": self.server_version})
            await self._lost.wait()
            self._ready.clear()
            self._telemetry.emit(BrokerLost(self.label, self._lost_reason))
            log.warning("lost the broker connection", extra={"connection": self.name, "reason": self._lost_reason})
            for callback in self._lost_callbacks:
                try:
                    callback()
                except Exception:
                    # Without this loop the process would be unconnected and say nothing.
                    log.exception("what follows a loss of the connection failed")
            await self._close()
            # A connection that is lost at once each time is as good as none, and must not be tried without a rest.
            failures = 0 if time.monotonic() - connected_at > STEADY else failures + 1
            await asyncio.sleep(reconnect_wait(failures))

    async def _connect(self) -> None:
        self._lost.clear()
        async with asyncio.timeout(self._connect_timeout):
            with translated("connect"):
                raw = await aio_pika.connect(
                    self._url,
                    timeout=self._connect_timeout,
                    heartbeat=self._heartbeat,
                    client_properties={"connection_name": self.name},
                    connection_class=_Unfinalised,
                )
            self._raw = raw
            raw.close_callbacks.add(self._on_close)
            transport = raw.transport
            properties = getattr(getattr(transport, "connection", None), "server_properties", {})
            self.server_version = str(properties.get("version", ""))
            for callback in self._callbacks:
                await callback()
        if raw.is_closed:
            raise ConnectionLost("the connection ended while it was set up")

    def _on_close(self, sender: object, error: BaseException | None) -> None:
        if sender is self._raw or self._raw is None:
            self._lost_reason = str(error) or type(error).__name__
            self._lost.set()

    async def _close(self) -> None:
        self._ready.clear()
        raw, self._raw = self._raw, None
        if raw is None or raw.is_closed:
            return
        try:
            with translated("close"):
                async with asyncio.timeout(2.0):
                    await raw.close()
        except BrokerError as error:
            log.debug("closing the connection failed", extra={"connection": self.name, "reason": str(error)})


Channel = aiormq.abc.AbstractChannel


class _Unfinalised(aio_pika.Connection):
    """A connection without a finaliser.

    aio-pika's own closes a forgotten connection in whichever thread the garbage collector happens to run, which can
    deadlock a thread that sets its event loop, and leaves coroutines that nobody awaits. The supervisor closes its own.
    """

    def __del__(self) -> None:
        """Nothing."""


def _address(settings: BrokerSettings) -> str:
    """The URL with the certificate authorities in it, which is how aio-pika takes them."""
    if settings.tls_ca_file is None:
        return settings.amqp_url
    joined = "&" if urlsplit(settings.amqp_url).query else "?"
    return f"{settings.amqp_url}{joined}{urlencode({'cafile': settings.tls_ca_file})}"

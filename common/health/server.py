"""``/metrics``, ``/healthz`` and ``/readyz`` of a service.

The server has a thread of its own, so it answers when the event loop is stuck, and can then say so. ``/healthz`` tells
only whether this process is alive: it must not fail because the broker is down, or an orchestrator would restart every
worker during a broker's outage. ``/readyz`` tells whether the service can do its work now.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from common.background import Periodic
from common.errors import SettingsError
from common.health.listener import Answer, Listener
from common.metrics import CollectorRegistry, exposition

Check = Callable[[], str | None]
"""None when all is well, else the reason in a few words. Called in the server's threads."""

PORTS_TO_TRY: Final = 100
_DRAINING: Final = "draining"

_log = logging.getLogger(__name__)


class HealthServer:
    """Serves metrics and health; a part of a service, started first and stopped last.

    Args:
        host: the address to bind.
        port: the port; the next free one above it when it is taken (the first of 100); 0 for any free one.
        registry: what ``/metrics`` shows.
        checks: what ``/readyz`` asks, by name.
        stale_after: seconds without a tick of the event loop until ``/healthz`` fails.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        checks: Mapping[str, Check],
        *,
        stale_after: float = 10.0,
    ) -> None:
        self._host = host
        self._wanted_port = port
        self._registry = registry
        self._checks = dict(checks)
        self._stale_after = stale_after
        self._draining = False
        self._ticked = time.monotonic()
        self._tick = Periodic("health.tick", min(1.0, stale_after / 4), self._note_tick)
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port that is served; 0 when not started."""
        return self._listener.server_port if self._listener is not None else 0

    @property
    def url(self) -> str:
        """The address of this server, such as ``http://127.0.0.1:9464``."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            SettingsError: the address cannot be bound.
        """
        if self._listener is not None:
            return
        self._listener = self._bind()
        await self._note_tick()
        self._tick.start()
        threading.Thread(target=self._listener.serve_forever, args=(0.1,), name="health", daemon=True).start()
        _log.info("serving metrics and health", extra={"url": self.url})

    def mark_draining(self) -> None:
        """Answer ``/readyz`` with 503 from now on. Hand it to `common.lifecycle.Service.on_draining`."""
        self._draining = True

    async def drain(self) -> None:
        """Like `mark_draining`."""
        self.mark_draining()

    async def stop(self) -> None:
        """Stop serving and free the port."""
        await self._tick.stop()
        listener, self._listener = self._listener, None
        if listener is not None:
            await asyncio.to_thread(listener.shutdown)
            listener.server_close()

    def _bind(self) -> Listener:
        last = min(self._wanted_port + PORTS_TO_TRY, 65_535) if self._wanted_port else 0
        for port in range(self._wanted_port, last + 1):
            try:
                return Listener(self._host, port, self._answer)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    reason = error.strerror or str(error)
                    raise SettingsError([f"http_host {self._host!r}, http_port {port}: {reason}"]) from error
        raise SettingsError([f"http_port: all ports from {self._wanted_port} to {last} are taken"])

    async def _note_tick(self) -> None:
        self._ticked = time.monotonic()

    def _answer(self, path: str, accept: str) -> Answer | None:
        if path == "/metrics":
            body, content_type = exposition(self._registry, accept)
            return Answer(200, content_type, body)
        if path == "/healthz":
            return self._health()
        if path == "/readyz":
            return self._readiness()
        return None

    def _health(self) -> Answer:
        silent = time.monotonic() - self._ticked
        alive = silent <= self._stale_after
        return _json(alive, {"alive": alive, "loop_silent_seconds": round(silent, 3)})

    def _readiness(self) -> Answer:
        checks = {name: _run(name, check) for name, check in self._checks.items()}
        if self._draining:
            checks["service"] = _DRAINING
        ready = all(outcome == "ok" for outcome in checks.values())
        return _json(ready, {"ready": ready, "checks": checks})


def _run(name: str, check: Check) -> str:
    try:
        return check() or "ok"
    except Exception as error:  # noqa: BLE001 - the boundary: a broken check is a failed one
        _log.warning("a readiness check failed to run", extra={"check": name}, exc_info=error)
        return f"the check raised {type(error).__name__}"


def _json(good: bool, content: object) -> Answer:
    return Answer(200 if good else 503, "application/json", json.dumps(content).encode() + b"\n")

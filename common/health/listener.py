"""A small HTTP server: GET only, a thread for each connection, at most 64 of them.

When a 65th client connects, the one that has been connected longest is cut off, so that slow or idle clients cannot
keep a health check out.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar, Final, NamedTuple

MAX_CONNECTIONS: Final = 64
REQUEST_SECONDS: Final = 5.0
"""A client that sends nothing for this long, or takes nothing, is cut off."""

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What to send back."""

    status: int
    content_type: str
    body: bytes


Respond = Callable[[str, str], Answer | None]
"""The answer for a path (without its query) and an ``Accept`` header; None for 404."""


class Listener(socketserver.ThreadingMixIn, HTTPServer):
    """The listening socket; `serve_forever` runs in a thread of its own.

    Args:
        host: the address to bind.
        port: the port, 0 for any free one.
        respond: makes the answers, in the connections' threads.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    # Two workers on one machine must not share a port: each would get a part of the scrapes.
    allow_reuse_port = False

    def __init__(self, host: str, port: int, respond: Respond) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.respond = respond
        self._open: dict[Any, None] = {}
        self._open_lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind without the name lookup of `HTTPServer`, which may wait for DNS for many seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection in a thread, and cut off the oldest when there are too many."""
        oldest = None
        with self._open_lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
            self._open[request] = None
        if oldest is not None:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that has been served."""
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are none of our business; anything else is logged."""
        _log.debug("a health request failed", extra={"client": str(client_address)}, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    timeout: ClassVar[float] = REQUEST_SECONDS
    server_version = "warren"
    sys_version = ""

    def do_GET(self) -> None:
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def _send(self, *, with_body: bool) -> None:
        try:
            answer = self.server.respond(self.path.partition("?")[0], self.headers.get("Accept", ""))
        except Exception as error:  # noqa: BLE001 - the boundary: a failing metric must not look like a dead server
            _log.exception("cannot answer a health request", extra={"path": self.path})
            answer = Answer(500, "text/plain", f"{type(error).__name__}\n".encode())
        if answer is None:
            answer = Answer(404, "text/plain", b"there is /metrics, /healthz and /readyz\n")
        self.send_response(HTTPStatus(answer.status))
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        _log.debug(format, *args, extra={"client": self.address_string()})

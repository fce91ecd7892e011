"""The worker's id: unique, readable in logs and management pages, and fit for a queue's name."""

from __future__ import annotations

import os
import re
import socket

from common.ids import new_nonce

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


def new_worker_id(name: str | None = None) -> str:
    """``<name or host>-<process id>-<nonce>``, at most 64 of ``A-Za-z0-9_-``.

    The nonce keeps two containers apart that have the same host name and process id.
    """
    host = _UNFIT.sub("-", name or socket.gethostname()).strip("-") or "worker"
    return f"{host[:32]}-{os.getpid()}-{new_nonce()}"

"""The end of a process that runs other people's code.

Python waits for threads that are no daemons, and runs exit handlers, which wait for more (`multiprocessing` for the
processes that it forked, for as long as they live). A service that has said that it stopped and is still there is
started again by nobody.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Final

PATIENCE: Final = 5.0
"""Seconds that threads and exit handlers have."""

_log = logging.getLogger(__name__)


def leave_within(code: int, seconds: float = PATIENCE) -> None:
    """End this process with `code` at the latest after so many seconds, whatever its exit handlers wait for."""
    threading.Thread(target=_leave, args=(code, seconds), name="leave", daemon=True).start()


def _leave(code: int, seconds: float) -> None:
    time.sleep(seconds)
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    _log.warning("threads or exit handlers do not end, the process does", extra={"seconds": seconds, "threads": left})
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

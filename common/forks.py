"""Signals that are handled in one process and not in those forked from it.

A fork inherits handlers and the descriptor that wakes the event loop. So a SIGTERM to a process that a task function
forked (`multiprocessing` does so, and ends what it forked by `terminate`) would not end that process and would drain
the worker instead, which shares the descriptor.
"""

from __future__ import annotations

import os
import signal
import threading

_ours: set[int] = set()
_before = threading.local()


def keep(*numbers: int) -> None:
    """A process that this one forks gets the usual handlers of these signals, until `release`."""
    _ours.update(numbers)


def release(*numbers: int) -> None:
    """Their handlers are inherited again."""
    _ours.difference_update(numbers)


def _hold() -> None:
    # A signal that comes between the fork and its first step is kept until the handlers are the right ones.
    _before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ours)


def _let() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before.mask)


def _forked() -> None:
    if _ours:
        signal.set_wakeup_fd(-1)
        for number in _ours:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _ours.clear()
    _let()


os.register_at_fork(before=_hold, after_in_parent=_let, after_in_child=_forked)

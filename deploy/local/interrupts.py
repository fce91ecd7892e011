"""Ctrl-C, SIGTERM and a closed terminal, for programs that have to remove what they have started.

The first signal raises `Interrupted` in the main thread, wherever it is. Those after it change nothing, so that
clearing up is never cut short by an impatient second Ctrl-C. Two kinds of moments are spared the first one as well:

- `held`: between a resource's coming into being and the note of it, or nobody would know what to remove;
- `disarm`: the clearing up at an ordinary end.

In a program that has not called `run`, signals do what they always do and `held` changes nothing.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks this program to end.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What the shell expects of a program that a signal has ended."""
        return 128 + self.number


class _Switch:
    """Whether a signal may raise now; changed by single assignments, so that no signal sees it half changed."""

    armed = False
    over = False
    holds = 0
    pending: int | None = None

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """Raise, or remember the first signal until it may."""
        if self.over or not self.armed:
            return
        if self.holds:
            self.pending = self.pending or number
            return
        self.armed = False
        raise Interrupted(number)

    def again(self, number: int) -> None:
        """Send a signal anew that has come to nothing."""
        self.armed = True
        os.kill(os.getpid(), number)


_switch = _Switch()


def run(work: Callable[[contextlib.ExitStack], int]) -> int:
    """Call `work` with a stack for what has to be cleared up, which happens undisturbed however `work` ends.

    Returns:
        what `work` returns.
    Raises:
        Interrupted: a signal came, and everything is cleared up.
    """
    for number in _SIGNALS:
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # nohup: the terminal's end is not ours
        signal.signal(number, _switch.signalled)
    sys.unraisablehook = _unraisable
    stack = contextlib.ExitStack()
    _switch.armed = True
    try:
        try:
            return work(stack)
        finally:
            disarm()  # a signal right here raises, and has thereby disarmed
    finally:
        stack.close()


def disarm() -> None:
    """From here on signals change nothing."""
    _switch.over = True


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """See to it that a signal is not lost that came within a destructor or a callback, whose exceptions are dropped."""
    if isinstance(unraisable.exc_value, Interrupted):
        threading.Timer(0.01, _switch.again, [unraisable.exc_value.number]).start()
    else:
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let a signal that comes within the block raise at its end."""
    _switch.holds += 1
    try:
        yield
    finally:
        _switch.holds -= 1
        if not _switch.holds and _switch.pending is not None:
            number, _switch.pending = _switch.pending, None
            _switch.signalled(number, None)

"""Ctrl-C, SIGTERM and a closed terminal, for programs that have to remove what they have started.

The first signal raises `Interrupted` in the main thread, wherever it is. Those after it change nothing, so that
clearing up is never cut short by an impatient second Ctrl-C. Two kinds of moments are spared the first one as well:

- `held`: between a resource's coming into being and the note of it, or nobody would know what to remove;
- `disarm`: the clearing up at an ordinary end.

In a program that has not called `run`, signals do what they always do and `held` changes nothing.
"""

import contextlib
import signal
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
        self.exit_code = 128 + number


class _Switch:
    """Whether a signal may raise now; changed by single assignments, so that no signal sees it half changed."""

    armed = False
    holds = 0
    pending: int | None = None

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """Raise, or remember the first signal until it may."""
        if not self.armed:
            return
        if self.holds:
            self.pending = self.pending or number
            return
        self.armed = False
        raise Interrupted(number)


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
    _switch.armed = False


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

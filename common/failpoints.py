"""Named places where a test can make a process die, fail or hang.

Random kills almost never hit a window of 100 microseconds between two steps, so the hot paths name those windows. All
failpoints are off unless `arm` is called, which a service does at its start with ``WARREN_FAILPOINTS``, for example
``intake.after_commit:kill`` or ``dispatcher.after_publish:timeout:3`` (only at the third hit). Being off costs one call
and one test of an empty dictionary.

Actions:

- ``kill``: SIGKILL to this process, as by the kernel's out-of-memory killer
- ``exit``: the process ends at once with exit code 70, without any cleaning up
- ``raise``: `FailpointError`
- ``timeout``: `TimeoutError`. Placed after a step, this is "it was done, but nobody heard of it"
- ``hang``: does not return until `disarm`

With ``WARREN_FAILPOINTS_ONCE=<directory>`` each failpoint fires once among all processes that share the directory: it
creates a file of its name there first, so a process that is started again does not die again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import SettingsError, WarrenError

PATH: Final = (
    "intake.before_commit",
    "intake.after_commit",
    "intake.before_ack",
    "dispatcher.before_publish",
    "dispatcher.after_publish",
    "dispatcher.after_confirm",
    "store.after_commit",
    "collector.before_commit",
    "collector.after_commit",
    "collector.after_tell",
    "worker.before_start",
    "worker.after_start",
    "worker.before_reply",
    "worker.after_reply",
    "worker.after_confirm",
    "worker.after_ack",
)
"""Those that every task passes, roughly in this order."""

LIFE: Final = (
    "canceller.before_commit",
    "canceller.after_commit",
    "canceller.after_order",
    "dead_letters.before_commit",
    "dead_letters.after_commit",
    "timers.before_commit",
    "timers.after_commit",
    "janitor.before_commit",
    "janitor.after_commit",
)
"""Those that are reached only when something is cancelled, replayed or purged, waits for its time, or is forgotten."""

FLEET: Final = (
    "rearranger.before_commit",
    "rearranger.after_commit",
    "quota_keeper.before_commit",
    "quota_keeper.after_commit",
)
"""Those that are reached only when an operator moves tasks or changes limits."""

KNOWN: Final = PATH + LIFE + FLEET
"""Every failpoint."""

ACTIONS: Final = ("kill", "exit", "raise", "timeout", "hang")
_EXIT_CODE = 70
_POLL_SECONDS = 0.02
_log = logging.getLogger(__name__)


class FailpointError(WarrenError):
    """Raised by a failpoint that was armed with ``raise``."""


@dataclass
class _Arming:
    action: str
    nth: int | None
    """Fire only at this hit, counted from 1; None fires at each."""
    once_in: Path | None
    hits: int = 0


_armed: dict[str, _Arming] = {}


def arm(text: str, once_in: Path | None = None) -> None:
    """Arm the failpoints in `text`, in addition to those that are armed.

    Args:
        text: ``name:action[:n]``, separated by commas. Empty arms nothing.
        once_in: a directory of markers; see the module's docstring.

    Raises:
        SettingsError: a name that is not in `KNOWN`, an unknown action, or `n` is not a whole number above 0.
    """
    armings: dict[str, _Arming] = {}
    faults: list[str] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rest = item.partition(":")
        action, _, nth = rest.partition(":")
        if name not in KNOWN:
            faults.append(f"failpoint {name!r} is not known; known are {', '.join(KNOWN)}")
        elif action not in ACTIONS:
            faults.append(f"failpoint {name}: action {action!r} is not one of {', '.join(ACTIONS)}")
        elif nth and not (nth.isascii() and nth.isdigit() and int(nth) > 0):
            faults.append(f"failpoint {name}: {nth!r} is not a hit number (1, 2, ...)")
        else:
            armings[name] = _Arming(action, int(nth) if nth else None, once_in)
    if faults:
        raise SettingsError(faults)
    _armed.update(armings)


def arm_from(environ: Mapping[str, str]) -> None:
    """`arm` with ``WARREN_FAILPOINTS`` and ``WARREN_FAILPOINTS_ONCE``, and say so; called by the services' commands.

    Args:
        environ: the environment.

    Raises:
        SettingsError: as `arm`.
    """
    once = environ.get("WARREN_FAILPOINTS_ONCE")
    arm(environ.get("WARREN_FAILPOINTS", ""), Path(once) if once else None)
    if _armed:
        _log.warning("failpoints are armed: this process may die on purpose", extra={"failpoints": armed()})


def disarm() -> None:
    """Switch all failpoints off, and let those that hang go on."""
    _armed.clear()


def armed() -> tuple[str, ...]:
    """The names that are armed now, so that a service can say so in its log."""
    return tuple(_armed)


def hit(name: str) -> None:
    """Be at the failpoint `name`, in code that runs in a thread of its own (``hang`` blocks the thread).

    Raises:
        FailpointError: armed with ``raise``.
        TimeoutError: armed with ``timeout``.
    """
    if not _armed:
        return
    if (arming := _fire(name)) is not None:
        while _armed.get(name) is arming:
            time.sleep(_POLL_SECONDS)


async def reached(name: str) -> None:
    """Be at the failpoint `name`, in a coroutine (``hang`` blocks only this coroutine).

    Raises:
        FailpointError: armed with ``raise``.
        TimeoutError: armed with ``timeout``.
    """
    if not _armed:
        return
    if (arming := _fire(name)) is not None:
        while _armed.get(name) is arming:  # noqa: ASYNC110 - may be disarmed from another thread
            await asyncio.sleep(_POLL_SECONDS)


def _fire(name: str) -> _Arming | None:
    """Do what is armed for `name`. Returns the arming when the caller has to hang."""
    arming = _armed.get(name)
    if arming is None:
        return None
    arming.hits += 1
    if arming.nth is not None and arming.hits != arming.nth:
        return None
    if arming.once_in is not None and not _mark(arming.once_in / name):
        return None
    if arming.action == "hang":
        return arming
    if arming.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if arming.action == "exit":
        os._exit(_EXIT_CODE)
    if arming.action == "timeout":
        raise TimeoutError(f"failpoint {name}")
    raise FailpointError(f"failpoint {name}")


def _mark(marker: Path) -> bool:
    """Create `marker`. False when it exists: another process, or an earlier life of this one, has fired."""
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        return True
    return False

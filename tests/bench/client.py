"""The client side of one workload, in a process of its own: `python -m tests.bench.client SYSTEM WORKLOAD ...`.

It speaks to its parent in lines of JSON on standard output: `begin` when the measured part starts, `end` with the
figures. The parent answers each line with one on standard input, so that its counters cover the measured part only.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from tests.bench.site import Site
from tests.bench.systems import Burst, Doomed, Session
from tests.bench.systems.registry import SYSTEMS

_FIRST_BURST = 100  # tasks of the first, unmeasured burst, which also waits for the services to be up
_CALIBRATION = 0.5  # seconds that the second unmeasured burst should take


class Report(msgspec.Struct):
    """One line to the parent: `event` is `begin`, `submitted` or `end`; the figures are in the last one."""

    event: str
    burst: Burst | None = None
    doomed: Doomed | None = None
    latencies: list[float] = []


class Backlogged(Protocol):
    """A session that can submit without ever asking for a result."""

    def fill(self, n: int) -> float:
        """Submit `n` tasks, and return the seconds until the last was accepted."""

    def delayed(self, n: int) -> list[float]:
        """Submit `n` tasks for tomorrow, then some that become due; return by how many seconds each was late."""

    def idle(self, until: Callable[[], None]) -> None:
        """Stay connected and be told results until `until`, called in a thread, returns."""


class Doomable(Protocol):
    """A session that can submit a task that kills its process."""

    def doomed(self, n: int, seconds: float) -> Doomed:
        """Submit `n` short tasks with such a one in their midst, and wait for them so long at most."""


def main() -> None:
    """Run one workload and report it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("workload")
    parser.add_argument("--n", type=int, default=0, help="tasks; 0: as many as fit in --seconds")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    session = SYSTEMS[options.system].connect(Site.from_environment())
    try:
        if options.workload == "backlog":
            _backlog(cast("Backlogged", session), options.n)
        elif options.workload == "delayed":
            say(Report("begin"))
            say(Report("end", latencies=cast("Backlogged", session).delayed(options.n)))
        elif options.workload == "doomed":
            session.round_trip(1)  # the services are up
            say(Report("begin"))
            say(Report("end", doomed=cast("Doomable", session).doomed(options.n, options.seconds)))
        elif options.workload == "round_trip":
            _round_trip(session, options.n, options.seconds)
        else:
            _burst(session, options.workload, options.n, options.seconds)
    finally:
        session.close()


def _burst(session: Session, workload: str, n: int, seconds: float) -> None:
    run = session.bursts[workload]
    warm = run(_FIRST_BURST)
    if not n:
        warm = run(max(_FIRST_BURST, int(_FIRST_BURST * _CALIBRATION / warm.seconds)))
        warm = run(max(_FIRST_BURST, int(warm.n * _CALIBRATION / warm.seconds)))
        n = int(warm.n * seconds / warm.seconds)
    say(Report("begin"))
    say(Report("end", burst=run(n)))


def _round_trip(session: Session, n: int, seconds: float) -> None:
    warm = session.round_trip(_FIRST_BURST)
    n = n or int(seconds * _FIRST_BURST / sum(warm[_FIRST_BURST // 2 :]) / 2)
    say(Report("begin"))
    say(Report("end", latencies=session.round_trip(n)))


def _backlog(session: Backlogged, n: int) -> None:
    """Submit with no worker there; the parent then starts one, and its answer to `submitted` comes after the drain."""
    say(Report("begin"))
    seconds = session.fill(n)
    session.idle(until=lambda: say(Report("submitted", burst=Burst(n, seconds, seconds))))
    say(Report("end", burst=Burst(n, seconds, seconds)))


def say(report: Report) -> None:
    """Write one line to the parent and wait for its answer."""
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        raise SystemExit("the parent is gone")


if __name__ == "__main__":
    main()

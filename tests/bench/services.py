"""Starting and stopping the processes of one system, and talking to its client process."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.bench.client import Report
from tests.bench.site import Site
from tests.bench.systems import Command

_ROOT = Path(__file__).resolve().parents[2]
_GRACE = 20.0  # seconds for a service to stop by itself


class BenchError(Exception):
    """A system could not be measured; says which and why."""


class Services:
    """The running services of one system; leaving the block stops them, last started first.

    Args:
        site: surroundings; logs go to its folder.
        commands: what to start, in order.
    """

    def __init__(self, site: Site, commands: Iterable[Command]) -> None:
        self._site = site
        self._commands = list(commands)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in reversed(self._running.values()):
            stop(process)

    @property
    def pids(self) -> dict[str, int]:
        """Return the process id of each running service by its name."""
        return {name: process.pid for name, process in self._running.items()}

    def start(self, *names: str) -> None:
        """Start the services with these names, or all of them."""
        for command in self._commands:
            if not names or command.name in names:
                self._running[command.name] = self._start(command)

    def stop(self, name: str) -> None:
        """End one service."""
        stop(self._running.pop(name))

    def check(self) -> None:
        """Raise BenchError, with the end of its log, if a service has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise BenchError(f"its {name} ended with {process.returncode}; its log ends:\n{self.log(name)}")

    def start_again(self) -> int:
        """Start what has ended by itself, as an init system would, and return how many that were."""
        ended = [command for command in self._commands if self._has_ended(command.name)]
        for command in ended:
            self._running[command.name] = self._start(command)
        return len(ended)

    def _has_ended(self, name: str) -> bool:
        process = self._running.get(name)
        return process is not None and process.poll() is not None

    def log(self, name: str) -> str:
        """Return the last lines that a service has written."""
        lines = self._site.file(f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def _start(self, command: Command) -> subprocess.Popen[bytes]:
        with self._site.file(f"{command.name}.log").open("ab") as log:
            return subprocess.Popen(
                command.argv,
                cwd=_ROOT,
                env=self._site.environment() | command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to handle, in our order
            )


class ClientProcess:
    """The client process of one workload."""

    def __init__(self, site: Site, arguments: Iterable[str]) -> None:
        self._finished = False
        self._log = site.file("client.log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.client", *arguments],
                cwd=_ROOT,
                env=site.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def run(self, on_event: Callable[[Report], None], check: Callable[[], None]) -> Report:
        """Follow the client to its end.

        Args:
            on_event: called with each report; the client goes on when it returns.
            check: called about once a second; raises when waiting has become pointless.
        Returns:
            the last report, with the figures.
        Raises:
            BenchError: the client ended without one.
        """
        assert self._process.stdin is not None
        while line := self._next_line(check):
            report = msgspec.json.decode(line, type=Report)
            on_event(report)
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            if report.event == "end":
                self._finished = True
                return report
        lines = self._log.read_text(errors="replace").splitlines()
        raise BenchError(f"its client ended with {self._process.wait()}:\n" + "\n".join(lines[-15:]))

    def leave(self) -> None:
        """Let the client close its connections; a client in the middle of its work is told to stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE if self._finished else 0)
        stop(self._process)

    def _next_line(self, check: Callable[[], None]) -> bytes:
        # The client writes a line and waits for ours, so a line is never left behind in the buffer of `stdout`.
        assert self._process.stdout is not None
        while not select.select([self._process.stdout], [], [], 1.0)[0]:
            check()
        return self._process.stdout.readline()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop; kill it with its whole session after the grace time."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()

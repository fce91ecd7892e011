"""One service as a real process: started, killed, frozen, and started again when it dies, as Compose would."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local import processes
from tests.support.conditions import wait_until
from tests.support.nursery import Forked

ROOT = Path(__file__).resolve().parents[2]
_SERVING = b'"event":"serving metrics and health"'
_BACK_OFF = 0.1  # seconds until a dead service is started again
# The kernel ends a service with the thread that keeps it, so nothing stays when the tests themselves are killed.
_END_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


class ServiceProcess:
    """A service, supervised from a thread of its own.

    Args:
        name: for people, and of its log file.
        argv: the command.
        environment: all of its environment.
        log: where it writes to; kept over restarts.
        restart: start it again whenever it ends without having been told to.
        forked: the command is ``python -m ...``, and is run by a `nursery`.

    Attributes:
        exits: the exit codes so far; negative for a signal.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        restart: bool = True,
        forked: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self.exits: list[int] = []
        self._argv = list(argv)
        self._environment = dict(environment)
        self._restart = restart
        self._forked = forked
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._launched = threading.Event()
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._keeper: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The process id now."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is kept running."""
        return self._keeper is not None

    def start(self) -> None:
        """Start it, and from now on again whenever it dies."""
        assert self._keeper is None, f"{self.name} runs already"
        self._stopping.clear()
        self._launched.clear()
        self._keeper = threading.Thread(target=self._keep, name=f"keep {self.name}", daemon=True)
        self._keeper.start()
        assert self._launched.wait(10), f"{self.name} cannot be started"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process that runs now."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL and return when it is dead; it is started again if it is to be."""
        pid = self.pid
        with contextlib.suppress(ProcessLookupError):  # it has just died by itself
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes.alive(pid), 10.0, f"{self.name} dies")

    def terminate(self) -> None:
        """Ask it to drain and end (SIGTERM), without waiting; it is started again if it is to be."""
        wait_until(lambda: processes.alive(self.pid), 10.0, f"{self.name} lives")
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it (SIGSTOP); its connections stay open."""
        wait_until(lambda: processes.alive(self.pid), 10.0, f"{self.name} lives")
        self.send(signal.SIGSTOP)
        processes.await_stopped(self.pid)

    def resume(self) -> None:
        """Let it go on; one that has just died, and is started again, is not frozen."""
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 30.0) -> int:
        """End it for good, by force after `timeout` seconds; return its exit code.

        Args:
            number: SIGTERM drains, SIGKILL does not.
            timeout: seconds for the end.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return self.exits[-1] if self.exits else 0
        self._stopping.set()
        if not self._ended.is_set():
            children = processes.descendants(self.pid)
            for each in (number, signal.SIGCONT):
                if processes.alive(self.pid):
                    self.send(each)
            keeper.join(timeout)
            if keeper.is_alive():
                self.send(signal.SIGKILL)
            processes.kill_all(children)
        keeper.join()
        return self.exits[-1]

    def await_exits(self, count: int, timeout: float = 30.0) -> None:
        """Return when it has ended this often."""
        wait_until(lambda: len(self.exits) >= count, timeout, f"{self.name} ends {count} times", lambda: self.exits)

    def await_ready(self, timeout: float = 30.0) -> None:
        """Return when `/readyz` says 200."""
        wait_until(lambda: self.get("/readyz")[0] == 200, timeout, f"{self.name} is ready", self._state)

    def await_unready(self, timeout: float = 30.0) -> None:
        """Return when `/readyz` says 503."""
        wait_until(lambda: self.get("/readyz")[0] == 503, timeout, f"{self.name} is unready", self._state)

    def get(self, path: str) -> tuple[int, str]:
        """Ask its health server; status 0 when it does not answer."""
        url = self._url()
        if url is None:
            return 0, ""
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=2.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the sum of all series of one metric, such as `warren_tasks_lost_total`."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                total += float(line.rpartition(" ")[2])
        return total

    def said(self) -> str:
        """All that it has written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _state(self) -> str:
        return f"{self.name} has ended {self.exits}, /readyz says {self.get('/readyz')}"

    def _url(self) -> str | None:
        """The address in the log of this start: a restarted service serves another port."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            for line in log:
                if _SERVING in line and line.endswith(b"\n"):
                    return str(json.loads(line)["url"])
        return None

    def _launch(self) -> None:
        self._ended.clear()
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            if self._forked:
                _, _, module, *arguments = self._argv
                self._process = Forked(module, arguments, self._environment, ROOT, self.log)
                return
            self._process = subprocess.Popen(
                [*_END_WITH_US, *self._argv],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the test's to handle
            )

    def _keep(self) -> None:
        while True:
            self._launch()
            self._launched.set()
            assert self._process is not None
            self.exits.append(self._process.wait())
            if not self._restart or self._stopping.wait(_BACK_OFF):
                self._ended.set()
                return

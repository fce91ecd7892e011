"""The demo's services: real processes with their own folder and namespace, all gone when they are closed."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.settings import BrokerSettings
from deploy.demo.errors import DemoError
from deploy.local import interrupts
from deploy.local.ports import free_port

_ROOT: Final = Path(__file__).resolve().parents[2]
_POLL: Final = 0.05  # seconds between two looks at a process
_GRACE: Final = 5.0  # seconds that a service has to end by itself

# How to reach a broker of the user's own holds for us too; everything else that is set for Warren does not.
_KEPT: Final = {f"WARREN_{field.upper()}" for field in BrokerSettings.__struct_fields__}


@dataclass(frozen=True, slots=True)
class Service:
    """One started service.

    Args:
        name: for people.
        process: its main process.
        port: where it serves metrics and health, on 127.0.0.1.
        log: what it writes.
    """

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def metrics_url(self) -> str:
        """Where Prometheus would scrape it."""
        return f"http://127.0.0.1:{self.port}/metrics"

    def ended(self) -> bool:
        """Whether its main process has ended. It is not reaped yet, so its number cannot be given to another one."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP server.

        Returns:
            status and body; (0, "") when there is no answer within two seconds.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Processes:
    """Starts services and ends them.

    Args:
        folder: their working directory, logs and temporary files.
        amqp_url: the broker.
        namespace: their namespace on it.
    """

    def __init__(self, folder: Path, amqp_url: str, namespace: str) -> None:
        self._folder = folder
        self._environment = _environment(folder, amqp_url, namespace)
        self._services: list[Service] = []
        self._killed: set[int] = set()

    def start(self, name: str, *arguments: str) -> Service:
        """Start `python -m ARGUMENTS...`; returns at once, see `await_ready`."""
        port = free_port()
        log = self._folder / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as output, interrupts.held():
            process = subprocess.Popen(  # noqa: S603 - our own services
                [sys.executable, "-m", "deploy.demo.leash", str(os.getpid()), *arguments, "--http-port", str(port)],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for us alone: we end them in our order
            )
            service = Service(name, process, port, log)
            self._services.append(service)
        return service

    def await_ready(self, service: Service, timeout: float = 30.0) -> None:
        """Return once a service says that it can work.

        Args:
            service: the service.
            timeout: seconds.
        Raises:
            DemoError: a service has ended, or this one is not ready in time.
        """
        deadline = time.monotonic() + timeout
        while service.get("/readyz")[0] != http.client.OK:
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"the {service.name} is not ready after {timeout:g} s:\n{service.last_words()}")
            time.sleep(_POLL)

    def check(self) -> None:
        """Return when every service runs that was not killed here.

        Raises:
            DemoError: one does not.
        """
        for service in self._services:
            if service.pid not in self._killed and service.ended():
                raise DemoError(f"the {service.name} has ended by itself; its log ends:\n{service.last_words()}")

    def kill(self, service: Service) -> None:
        """Kill one process with SIGKILL, as the kernel does when memory runs out; returns when it is dead."""
        self._killed.add(service.pid)
        os.kill(service.pid, signal.SIGKILL)
        os.waitid(os.P_PID, service.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        """End all services, the workers first, those that do not want to by force, with all that they have started."""
        deadline = time.monotonic() + _GRACE
        for service in reversed(self._services):
            if not service.ended():
                os.kill(service.pid, signal.SIGTERM)
        for service in reversed(self._services):
            while not service.ended() and time.monotonic() < deadline:
                time.sleep(_POLL)
            with contextlib.suppress(PermissionError):  # macOS, when only the dead leader is left of the group
                os.killpg(service.pid, signal.SIGKILL)  # its number is still the leader's: nobody has reaped that
            service.process.wait()
        self._services.clear()


def _environment(folder: Path, amqp_url: str, namespace: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_") or name in _KEPT}
    return kept | {
        "WARREN_AMQP_URL": amqp_url,
        "WARREN_NAMESPACE": namespace,
        "WARREN_HTTP_HOST": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
        "TMPDIR": str(folder),
    }

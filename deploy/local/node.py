"""A private RabbitMQ node: own ports, data, cookie and port mapper; to be killed, paused and starved at will.

The node leaves the system's broker alone and the system's settings do not reach it. Its data directory and its ports
stay the same through `kill()`, `stop()` and `start()`, so that clients find the same broker again.

    with RabbitNode() as node:
        connect(node.url())
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from deploy.local import interrupts, processes
from deploy.local.administration import Administration
from deploy.local.control import BrokerError, Control
from deploy.local.installation import NodeFiles, node_environment, require_installation
from deploy.local.ports import free_port

_TRIES = 3
"""Starts, the first time, with other ports each."""
_NAME = "warren@localhost"  # every node has a port mapper of its own, so the name need not differ
_CONTROL_SCRIPT = Path(__file__).with_name("control.erl")
_POLL = 0.02  # seconds between two looks at a node that boots or halts


class RabbitNode(Administration):
    """One private node.

    Args:
        base: folder for data, logs and settings, kept afterwards; by default a new one, removed on leaving `with`.
        settings: further lines of `rabbitmq.conf`.
        plugins: plugins to enable, for instance `rabbitmq_prometheus`.
    Raises:
        BrokerError: RabbitMQ is not installed.
    """

    def __init__(self, base: Path | None = None, *, settings: Sequence[str] = (), plugins: Sequence[str] = ()) -> None:
        super().__init__()
        self._installation = require_installation()
        # A unix socket's path must stay below 104 bytes, and `base` may be anywhere.
        self._run = Path(tempfile.mkdtemp(prefix="warren-"))
        self._files = NodeFiles(base.resolve() if base is not None else self._run / "node")
        self._settings = list(settings)
        self._choose_ports()
        self._started = False
        self._plugins = plugins
        self._log_start = 0
        self._control = Control(self._run / "control")
        self._beam: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the running node.

        Raises:
            BrokerError: the node does not run.
        """
        if self._beam is None or self._beam.poll() is not None:
            raise BrokerError("the node does not run")
        return self._beam.pid

    @property
    def running(self) -> bool:
        """Whether the node's process exists (it may be paused)."""
        return self._beam is not None and self._beam.poll() is None

    def processes(self) -> set[int]:
        """Return the process ids that belong to this node now: itself, its children, its port mapper."""
        found = {self._epmd.pid} if self._epmd is not None else set()
        if self._beam is not None:
            found |= {self._beam.pid, *processes.descendants(self._beam.pid)}
        return found

    @property
    def log(self) -> str:
        """All that the node has written so far."""
        return self._files.log.read_text(errors="replace") if self._files.log.exists() else ""

    def url(self, user: str = "guest", password: str = "guest", vhost: str = "/") -> str:  # noqa: S107 - RabbitMQ's default
        """Return the AMQP URL for one user and virtual host."""
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def start(self, timeout: float = 60.0) -> None:
        """Start the node and wait until it has booted and accepts AMQP connections; faults set before are gone.

        Args:
            timeout: seconds until the start counts as failed (the node is then killed).
        Raises:
            BrokerError: the node runs already, died on the way or was not ready in time; with the end of its log.
        """
        if self.running:
            raise BrokerError("the node runs already")
        for tries_left in reversed(range(_TRIES)):
            try:
                self._start(timeout)
            except BrokerError:
                # Somebody took a port between our choice and now; later nobody but this node knows its ports.
                if self._started or not tries_left or "eaddrinuse" not in self.log[self._log_start :]:
                    raise
                self.stop()
                self._choose_ports()
            else:
                self._started = True
                return

    def _choose_ports(self) -> None:
        self.port = free_port()
        self._epmd_port = free_port()
        self._environment = node_environment(self._files, _NAME, self.port, free_port(), self._epmd_port)
        self._environment["WARREN_NODE_CONTROL"] = str(self._run / "control")
        self._environment["WARREN_NODE_SCRATCH"] = str(self._run)
        self._environment["WARREN_NODE_SCRIPT"] = str(_CONTROL_SCRIPT)

    def _start(self, timeout: float) -> None:
        self._log_start = len(self.log)
        self._undo.clear()
        self._write_files()
        self._start_epmd()
        deadline = time.monotonic() + timeout
        with self._files.log.open("ab") as output, interrupts.held():
            self._beam = subprocess.Popen(  # noqa: S603 - the installation's own script
                [self._installation.server, "-eval", 'file:eval(os:getenv("WARREN_NODE_SCRIPT")).'],
                env=self._environment,
                cwd=self._files.base,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in our terminal is ours to handle, in our order
            )
        try:
            self._await_boot(self._beam, deadline)
            self._control.hold()
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """Stop the node in good order, after `timeout` seconds by force, and then its port mapper."""
        self._control.release()
        if self._beam is not None and self._beam.poll() is None:
            self._beam.send_signal(signal.SIGTERM)
            self._beam.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._beam.wait(timeout)
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def kill(self) -> None:
        """Kill the node and its child processes with SIGKILL, as a crash would; its port mapper stays."""
        if self._beam is None:
            return
        children = processes.descendants(self._beam.pid)
        if self._beam.poll() is None:
            os.killpg(self._beam.pid, signal.SIGKILL)  # also what its start script has begun since
        self._beam.wait()
        processes.kill_all(children)
        self._control.release()
        self._beam = None

    def restart(self, timeout: float = 60.0) -> None:
        """Stop the node in good order and start it again on the same data and ports."""
        self.stop()
        self.start(timeout)

    def pause(self) -> None:
        """Freeze the node (SIGSTOP): connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        processes.await_stopped(self.pid)

    def resume(self) -> None:
        """Let a paused node go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Empty the data directory, as when the broker's disk is lost: no queue, message or user remains.

        Raises:
            BrokerError: the node still runs.
        """
        self._require_stopped("wiped")
        shutil.rmtree(self._files.data, ignore_errors=True)

    def save(self, folder: Path) -> None:
        """Copy the data directory to `folder`, which must not exist, as a backup of the disk would.

        Raises:
            BrokerError: the node still runs.
        """
        self._require_stopped("copied")
        shutil.copytree(self._files.data, folder)

    def restore(self, folder: Path) -> None:
        """Put back what `save` has copied: the node forgets all that came after.

        Raises:
            BrokerError: the node still runs.
        """
        self._require_stopped("put back")
        shutil.rmtree(self._files.data, ignore_errors=True)
        shutil.copytree(folder, self._files.data)

    def close(self) -> None:
        """Stop the node and remove what belongs to it; a `base` given by the caller stays."""
        self.stop()
        shutil.rmtree(self._run, ignore_errors=True)

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run `rabbitmqctl` (about a second a call; `eval` is a thousand times quicker) and return its output.

        Raises:
            BrokerError: the command failed; with what it said.
        """
        done = subprocess.run(  # noqa: S603 - the installation's own script
            [self._installation.ctl, "--node", _NAME, "--quiet", *arguments],
            env=self._environment,
            cwd=self._files.base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)} failed: {done.stderr or done.stdout}")
        return done.stdout

    def eval(self, expression: str, timeout: float = 10.0) -> str:
        """Evaluate an Erlang expression in the node; see `Control.eval`."""
        return self._control.eval(expression, timeout)

    def _require_stopped(self, what: str) -> None:
        if self.running:
            raise BrokerError(f"the data can only be {what} while the node is stopped")

    def _write_files(self) -> None:
        """Write settings and cookie anew at each start; the data is left alone."""
        files = self._files
        for folder in (files.home, files.data):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.config.write_text("\n".join([f"listeners.tcp.default = {self.port}", *self._settings]) + "\n")
        files.plugins.write_text(f"[{','.join(self._plugins)}].\n")
        cookie = files.home / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))

    def _start_epmd(self) -> None:
        """Start the port mapper as our own child: one that the node starts would detach itself and stay."""
        if self._epmd is None or self._epmd.poll() is not None:
            with interrupts.held():
                self._epmd = subprocess.Popen(  # noqa: S603 - the installation's own program
                    [self._installation.epmd, "-address", "127.0.0.1", "-port", str(self._epmd_port)],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._await("its port mapper", self._epmd, time.monotonic() + 10, lambda: _listens(self._epmd_port))
        self._environment["WARREN_NODE_EPMD_PID"] = str(self._epmd.pid)

    def _await_boot(self, beam: subprocess.Popen[bytes], deadline: float) -> None:
        """Return once the node says that it runs and a client can connect."""
        self._await("its control socket", beam, deadline, self._booted)
        self._await("its AMQP port", beam, deadline, lambda: _listens(self.port))

    def _booted(self) -> bool:
        try:
            return self.eval("rabbit:is_running().", timeout=2.0) == "true"
        except BrokerError:
            return False

    def _await(self, what: str, process: subprocess.Popen[bytes], deadline: float, ready: Callable[[], bool]) -> None:
        """Return once `ready()` holds.

        Raises:
            BrokerError: `process` has ended or the deadline has passed before that.
        """
        while not ready():
            if process.poll() is not None:
                raise BrokerError(f"the node died on start (exit {process.returncode}); its log:\n{self._cause()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"the node's start takes too long, waiting for {what}; its log:\n{self._cause()}")
            time.sleep(_POLL)

    def _cause(self) -> str:
        """Return what the log says since the last start: from the first error on, or else its end."""
        lines = self.log[self._log_start :].splitlines()
        first = next((number for number, line in enumerate(lines) if "[error]" in line), len(lines) - 30)
        return "\n".join(lines[max(first, 0) :][:30])


def _listens(port: int) -> bool:
    """Whether something accepts TCP connections on this port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False

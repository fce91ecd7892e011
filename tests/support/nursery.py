"""Services forked from a process that has imported them: what else takes most of a start is done once for all.

They are processes of their own, with their own session, environment and log, and from there on run as ``python -m``
runs them; Python's fork server is what forks them. That a service starts from nothing is shown by the tests of the
demo, of the README and of Docker Compose.
"""

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

IMPORTED = ("scheduler_service.app", "scheduler_service.cli", "worker_service.app", "worker_service.cli", __name__)
_PR_SET_PDEATHSIG = 1

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(IMPORTED))
# Starting one looks after all others, and two threads that read the same exit code would each get half of it.
_lock = threading.Lock()


class Forked:
    """A process that runs a module; has what is used here of `subprocess.Popen`.

    Args:
        module: its name.
        arguments: for it.
        environment: all of its environment.
        folder: the working directory.
        log: where its output is appended.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self._process = _context.Process(
            target=_run, args=(module, list(arguments), dict(environment), str(folder), str(log))
        )
        with _lock:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def wait(self) -> int:
        """Return the exit code once it has ended; negative for a signal."""
        wait([self._process.sentinel])
        with _lock:
            code = self._process.exitcode
        assert code is not None
        return code


def _run(module: str, arguments: list[str], environment: dict[str, str], folder: str, log: str) -> None:
    os.setsid()  # Ctrl-C is the test's to handle
    if sys.platform == "linux":  # the fork server ends with the tests, and this process with the fork server
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

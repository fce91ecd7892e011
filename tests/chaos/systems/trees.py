"""A service of several processes, for which one signal has to reach all of them, as the end of a container does."""

import contextlib
import os
import signal

from deploy.local import processes
from tests.support.services import ServiceProcess


class ProcessTree(ServiceProcess):
    """A service whose signals go to its child processes too: Celery's and Dramatiq's outlive a killed parent."""

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of it."""
        for pid in (self.pid, *processes.descendants(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill every process of it."""
        children = processes.descendants(self.pid)
        super().kill()
        processes.kill_all(children)

"""Flame graphs of the services while they are measured, by py-spy, which is optional and costs a few per cent."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class Profiler:
    """Records each process of a measured part into an SVG file.

    Args:
        folder: where the files go; None records nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def missing(self) -> bool:
        """Whether profiles are wanted and py-spy is not installed."""
        return self._folder is not None and self._program is None

    def start(self, prefix: str, pids: Mapping[str, int]) -> None:
        """Begin to record these processes."""
        if self._folder is None or self._program is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, pid in pids.items():
            output = str(self._folder / f"{prefix}-{name}.svg")
            argv = [self._program, "record", "--pid", str(pid), "--output", output, "--subprocesses", "--nonblocking"]
            self._running.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    def stop(self) -> None:
        """End the recordings; py-spy writes its files on SIGINT."""
        for process in self._running:
            process.send_signal(2)
        for process in self._running:
            process.wait(30)
        self._running.clear()

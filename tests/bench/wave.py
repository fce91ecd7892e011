"""A wave of load on the Compose project, and how `deploy.autoscale` follows it.

It makes a project of its own and takes it down again. Each task tells a counter outside of the containers that it runs,
so that what ran twice is known whatever became of the container.
"""

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from common.client.sync import Client
from common.tasks import call
from deploy.compose import Project
from deploy.credentials import State, write_client_url

_ROOT = Path(__file__).parents[2]
_SLOTS = 10
_SECONDS = 1.0
"""How long each task takes."""
_CALM, _HIGH = 5, 45
"""Tasks a second."""
_SIGNALS = (
    'sum(warren_tasks{state="queued"})',
    "sum(warren_recommended_workers)",
    "max(warren_live_workers)",
    "max(warren_queue_oldest_seconds)",
)
_FAULTS = ("warren_tasks_lost_total", "warren_suspects_total", "warren_redelivered_total", "warren_replies_stale_total")


class Sample(msgspec.Struct):
    """How it was at one moment.

    Attributes:
        at: seconds since the start.
        submitted, started: tasks so far.
        containers: of workers.
        queued, recommended, workers, oldest: as Prometheus knows them, so up to a scrape ago.
    """

    at: float
    submitted: int
    started: int
    containers: int
    queued: float
    recommended: float
    workers: float
    oldest: float


class Stack:
    """The Compose project, with the environment that it needs."""

    def __init__(self, folder: Path, image: str) -> None:
        self.state = State(folder)
        self.project = Project(f"warren-wave-{secrets.token_hex(3)}", self.state)
        ports = {f"STACK_{name}_PORT": "0" for name in ("AMQP", "MANAGEMENT", "PROMETHEUS")}
        code = {"STACK_CODE": str(_ROOT / "tests/bench/apps"), "STACK_PACKAGE": "apps", "STACK_IMAGE": image}
        own = {"WARREN_MODULES": "apps.wave_tasks", "WARREN_QUEUES": "default", "WARREN_SLOTS": str(_SLOTS)}
        os.environ |= ports | code | own

    def deploy(self, module: str, *arguments: str) -> list[str]:
        names = ["--project", self.project.name, "--state", str(self.state.folder)]
        return [sys.executable, "-m", f"deploy.{module}", *names, *arguments]

    def gateway(self) -> str:
        """Where containers reach this machine."""
        form = "{{(index .IPAM.Config 0).Gateway}}"
        command = ["docker", "network", "inspect", "--format", form, f"{self.project.name}_default"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def containers(self) -> int:
        return len((self.project.ask("ps", "--quiet", "worker") or "").split())

    def ask(self, query: str) -> float:
        """One number of Prometheus; 0 where it knows none."""
        address = self.project.address("prometheus", 9090)
        url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0


class Sink:
    """Counts how often each task was started."""

    def __init__(self, host: str) -> None:
        self.seen: Counter[int] = Counter()
        self._host = host
        self.port = 0
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait(10)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._take, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await server.serve_forever()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in (await reader.read()).splitlines():
            self.seen[int(line)] += 1
        writer.close()


class Wave:
    """Submits by the second: calm, high, calm."""

    def __init__(self, client: Client, address: tuple[str, int], calm: float, high: float) -> None:
        self._client, self._address = client, address
        self._calm, self._high = calm, high
        self.submitted = 0
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        second = 0
        while not self.stopped.wait(max(0.0, began + second - time.monotonic())):
            rate = _HIGH if self._calm <= second < self._calm + self._high else _CALM
            keys = range(self.submitted, self.submitted + rate)
            self._client.submit_many([call("nap", key, _SECONDS, *self._address) for key in keys])
            self.submitted += rate
            second += 1


def measure(stack: Stack, calm: float, high: float, cooldown: float) -> tuple[list[Sample], Counter[int], int]:
    """Run the wave, and go on until only one worker is left; what was seen by the second."""
    address = stack.project.address("rabbitmq", 5672)
    assert address is not None
    sink = Sink(stack.gateway())
    client = Client(write_client_url(stack.state, address).read_text())
    wave = Wave(client, (stack.gateway(), sink.port), calm, high)
    samples: list[Sample] = []
    command = stack.deploy("autoscale", "--min=1", "--max=6", f"--cooldown={cooldown:g}")
    with client, subprocess.Popen(command, cwd=_ROOT) as scaler:
        try:
            began = time.monotonic()
            wave.start()
            until = calm + high + 600
            while (at := time.monotonic() - began) < until:
                containers = stack.containers()
                counts = (wave.submitted, sink.seen.total(), containers)
                samples.append(Sample(round(at, 1), *counts, *(stack.ask(query) for query in _SIGNALS)))
                if at > calm + high + 30 and containers == 1:
                    break
                time.sleep(max(0.0, 2.0 - (time.monotonic() - began - at)))
            wave.stop()
            deadline = time.monotonic() + 60
            while sink.seen.total() < wave.submitted and time.monotonic() < deadline:
                time.sleep(0.5)
            time.sleep(2.0)
        finally:
            wave.stop()
            scaler.terminate()
    return samples, sink.seen, wave.submitted


def report(console: Console, stack: Stack, samples: list[Sample], seen: Counter[int], submitted: int) -> None:
    table = Table("second", "submitted", "started", "queued", "oldest", "recommended", "containers", "live workers")
    for sample in samples[::5]:
        row = (sample.submitted, sample.started, int(sample.queued), f"{sample.oldest:.1f} s", int(sample.recommended))
        table.add_row(f"{sample.at:.0f}", *map(str, row), str(sample.containers), str(int(sample.workers)))
    console.print(table)
    never = submitted - len(seen)
    twice = sum(count > 1 for count in seen.values())
    faults = {name: stack.ask(f"sum({name})") for name in _FAULTS}
    console.print(f"{submitted} tasks: {never} never ran, {twice} ran more than once; {faults}")


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calm", type=float, default=60.0, help="seconds before the wave")
    parser.add_argument("--high", type=float, default=120.0, help="seconds of the wave")
    parser.add_argument("--cooldown", type=float, default=60.0, help="as that of deploy.autoscale")
    parser.add_argument("--image", default="warren-wave", help="name of the image that is built")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "state", arguments.image)
        try:
            subprocess.run(stack.deploy("compose", "up", "--no-grafana", "--scale=worker=1"), cwd=_ROOT, check=True)
            samples, seen, submitted = measure(stack, arguments.calm, arguments.high, arguments.cooldown)
            report(console, stack, samples, seen, submitted)
        finally:
            subprocess.run(stack.deploy("compose", "down", "--volumes"), cwd=_ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

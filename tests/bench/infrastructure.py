"""What all systems share in a run: the broker, a private Redis, and facts about the machine."""

import contextlib
import os
import platform
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec
import pika
import pika.exceptions
import psutil

from deploy.local.node import RabbitNode
from deploy.local.ports import free_port
from tests.bench.services import BenchError, stop
from tests.bench.systems import Leftovers

_FSYNCS = 200  # writes to take the median of


class Broker(msgspec.Struct, frozen=True):
    """The broker of a run.

    Args:
        url: where it is.
        version: what it says of itself.
        pid: its process, 0 if it is not ours.
        private: whether it is thrown away at the end, with all queues.
    """

    url: str
    version: str
    pid: int
    private: bool


class Machine(msgspec.Struct, frozen=True):
    """Where the figures were measured."""

    cores: int
    memory_gb: float
    processor: str
    system: str
    python: str
    broker: str
    redis: str
    fsync_ms: float


@contextlib.contextmanager
def broker(folder: Path, log: Path) -> Iterator[Broker]:
    """Use the broker of WARREN_AMQP_URL, or run a private node in `folder` for the time of the block."""
    url = os.environ.get("WARREN_AMQP_URL")
    if url:
        yield Broker(url, _broker_version(url), 0, private=False)
        return
    folder.mkdir()
    with RabbitNode(folder) as node:
        try:
            yield Broker(node.url(), _broker_version(node.url()), node.pid, private=True)
        finally:
            log.write_text(node.log)


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, int, str]]:
    """Run a private Redis or Valkey for the time of the block.

    It appends to its log and syncs once a second, its own default for an append-only file: less durable than the
    queues beside it, which is in favour of the systems that keep their results there.

    Yields:
        its URL without a database number, its process id, its version; ("", 0, "") if none is installed.
    """
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        yield "", 0, ""
        return
    port = free_port()
    settings = {"port": port, "bind": "127.0.0.1", "dir": folder, "appendonly": "yes", "appendfsync": "everysec"}
    argv = [program, *(str(word) for name, value in settings.items() for word in (f"--{name}", value)), "--save", ""]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _await_port(process, port)
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        yield f"redis://127.0.0.1:{port}", process.pid, f"{Path(program).stem} {version.split('v=')[-1].split()[0]}"
    finally:
        stop(process)


@contextlib.contextmanager
def cleaned(broker: Broker, leftovers: Leftovers) -> Iterator[None]:
    """Delete at the end of the block what a run leaves on a broker that goes on after it."""
    try:
        yield
    finally:
        if not broker.private:
            _delete(broker.url, leftovers)


def _delete(url: str, leftovers: Leftovers) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        for queue in leftovers.queues:  # one that does not exist is no fault
            with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
                connection.channel().queue_delete(queue)
        for exchange in leftovers.exchanges:
            with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
                connection.channel().exchange_delete(exchange)
    finally:
        connection.close()


def machine(folder: Path, broker_version: str, redis_version: str) -> Machine:
    """Describe this machine; takes about a second, for the disk under `folder`."""
    return Machine(
        cores=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        processor=_processor(),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        broker=f"RabbitMQ {broker_version}",
        redis=redis_version,
        fsync_ms=round(_fsync_seconds(folder) * 1000, 3),
    )


def versions(distributions: set[str]) -> dict[str, str]:
    """Return the installed version of each of these distributions that is there."""
    found = {}
    for name in sorted(distributions):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _fsync_seconds(folder: Path) -> float:
    """Return the median of the seconds that appending a page and syncing it takes, as a commit or a confirm does."""
    path = folder / "fsync"
    seconds = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(_FSYNCS):
            began = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
            seconds.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(seconds)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _broker_version(url: str) -> str:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        properties = connection._impl.server_properties or {}  # pika has no public way to it
        return str(properties.get("version", "unknown"))
    finally:
        connection.close()


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError("Redis did not start")
        time.sleep(0.02)

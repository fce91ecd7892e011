"""Stores, schedulers and producers for the integration tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common.telemetry import Telemetry
from deploy.local import Broker
from scheduler_service import rescuer
from scheduler_service.storage.store import Store
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database. A second engine is a second parameter here."""
    assert request.param == "sqlite"
    return f"sqlite:///{tmp_path}/warren.db"


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    """A running store."""
    opened = Store(database, telemetry=Telemetry())
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
def quick_rescue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in workers beat ten times a second: the directory is warm sooner than with real ones."""
    monkeypatch.setattr(rescuer, "WARM_UP", 0.5)
    monkeypatch.setattr(rescuer, "GRACE", 0.2)


@pytest.fixture
async def scheduler(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None
) -> AsyncIterator[RunningScheduler]:
    """A running scheduler with the default settings, except for what makes tests slow."""
    async with RunningScheduler(broker.url, namespace, tmp_path) as running:
        yield running


@pytest.fixture
async def producer(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[Producer]:
    """A client of that scheduler."""
    async with Producer(broker.url, namespace) as connected:
        yield connected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)

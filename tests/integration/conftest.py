"""Stores for the integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.telemetry import Telemetry
from scheduler_service.storage.store import Store


@pytest.fixture(params=["sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database. A second engine is a second parameter here."""
    assert request.param == "sqlite"
    return f"sqlite:///{tmp_path}/warren.db"


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    opened = Store(database, telemetry=Telemetry())
    await opened.start()
    yield opened
    await opened.stop()

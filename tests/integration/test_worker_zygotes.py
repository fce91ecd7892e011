"""Zygotes are kept alive: one at a time for each purpose, and started again, ever more slowly, when they keep dying."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import Future

import pytest

from common.questions import Progress
from common.wire import TaskMessage
from tests.support.stand_in_scheduler import MODULE
from tests.support.waiting import eventually
from worker_service.results import Limits
from worker_service.runtimes import keeper as keeping
from worker_service.runtimes.forker import Forker, child_environment
from worker_service.runtimes.keeper import Keeper


class Nobody:
    """No task runs here, so nothing is done for one."""

    def progress(self, lease: str, progress: Progress) -> None:
        raise AssertionError

    def submit(self, message: TaskMessage) -> Future[None]:
        raise AssertionError


class Zygotes:
    """Starts real ones, and knows them all."""

    def __init__(self) -> None:
        self.started: list[Forker] = []
        self.keeper = Keeper(self._start, "tests")

    async def _start(self) -> Forker:
        environment = child_environment(os.environ, ())
        forker = await Forker.start([MODULE], Limits(1000, 32), environment, "info", "json", Nobody())
        self.started.append(forker)
        return forker

    async def kill(self) -> None:
        """Kill the one that lives."""
        forker = await self.keeper.alive()
        forker._process.kill()
        await eventually(lambda: not forker.alive)


@pytest.fixture
async def zygotes() -> AsyncIterator[Zygotes]:
    made = Zygotes()
    yield made
    await made.keeper.stop()


async def test_everybody_gets_the_same_one(zygotes: Zygotes) -> None:
    got = await asyncio.gather(*(zygotes.keeper.alive() for _ in range(5)))
    assert got == zygotes.started * 5
    await zygotes.kill()
    again = await asyncio.gather(*(zygotes.keeper.alive() for _ in range(5)))
    assert again == [zygotes.started[1]] * 5


async def test_what_keeps_dying_is_started_more_and_more_slowly(
    zygotes: Zygotes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await zygotes.kill()
        await zygotes.keeper.alive()
    pauses = [each.pause_seconds for each in caplog.records if "died" in each.message]  # type: ignore[attr-defined]
    assert pauses[0] == 0, "once is an accident"
    assert all(0.05 <= pause <= keeping.LONGEST for pause in pauses[1:])
    assert len(zygotes.started) == 4
    monkeypatch.setattr(keeping, "STABLE", 0.0)  # as if it had lived for long
    caplog.clear()
    await zygotes.kill()
    await zygotes.keeper.alive()
    await zygotes.kill()
    await zygotes.keeper.alive()
    assert [each.pause_seconds for each in caplog.records if "died" in each.message] == [0, 0]  # type: ignore[attr-defined]


async def test_it_ends_with_its_keeper(zygotes: Zygotes) -> None:
    forker = await zygotes.keeper.alive()
    await zygotes.keeper.stop()
    await zygotes.keeper.stop()
    assert not forker.alive
    assert forker._process.poll() is not None

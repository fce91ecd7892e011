"""Which task functions workers have named, kept in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.wire import Beat
from scheduler_service import operations
from scheduler_service.fleet.directory import Directory
from scheduler_service.registrar import REMEMBERED, Registrar
from scheduler_service.storage.store import Store
from tests.support.waiting import eventually

NOW = 1_700_000_000.0


def crashed(name: str, error: BaseException) -> None:
    raise AssertionError(name) from error


@asynccontextmanager
async def registrar(store: Store, at: float) -> AsyncIterator[tuple[Registrar, Directory]]:
    directory = Directory(15.0)
    running = Registrar(store, directory, report=crashed, clock=lambda: at)
    await running.start()
    yield running, directory
    await running.stop()


async def known(store: Store) -> set[str]:
    return await store.run(operations.known_functions, 0.0)


async def test_what_is_named_for_the_first_time_is_there_for_the_next_scheduler(store: Store) -> None:
    async with registrar(store, NOW) as (running, directory):
        directory.hear(Beat("w", 1, ["default"], 4, [], [], functions=["add"], barred=["train"]), 1.0)
        running.heard()
        for _ in range(200):
            if await known(store) == {"add", "train"}:
                break
        running.heard()
        await eventually(lambda: not directory.take_fresh())
    assert await known(store) == {"add", "train"}
    async with registrar(store, NOW + 60) as (_, directory):
        assert directory.has_heard_of("train")
        assert not directory.has_heard_of("other")
        assert directory.take_fresh() == set()


async def test_what_nobody_has_named_for_a_month_is_forgotten_at_a_start(store: Store) -> None:
    await store.run(operations.hear_functions, ["old", "seen"], NOW)
    await store.run(operations.hear_functions, ["seen"], NOW + 2)
    async with registrar(store, NOW + REMEMBERED + 1) as (_, directory):
        assert directory.has_heard_of("seen")
        assert not directory.has_heard_of("old")
    assert await known(store) == {"seen"}

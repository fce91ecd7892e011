"""The store's thread: transactions that meet share a commit, and one that fails spoils no other."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from common.errors import StoreConflict, StoreRefused, StoreUnavailable
from common.telemetry import Telemetry
from scheduler_service import operations
from scheduler_service.events import StoreCommitted
from scheduler_service.storage import claims, inserts
from scheduler_service.storage.store import Store
from tests.support.storage import NOW, Blocked, accept, new


@pytest.fixture
def commits(store: Store) -> list[int]:
    """How many functions shared each commit."""
    counts: list[int] = []
    store._telemetry.on(StoreCommitted, lambda event: counts.append(event.functions))
    return counts


async def test_transactions_that_meet_share_one_commit(store: Store, commits: list[int]) -> None:
    async with Blocked(store):
        batch = [new() for _ in range(5)]
        running = [asyncio.create_task(accept(store, task)) for task in batch]
    await asyncio.gather(*running)
    assert commits == [1, 5]
    assert await store.run(claims.backlog) == {"default": 5}


async def test_one_that_fails_spoils_no_other(store: Store, commits: list[int]) -> None:
    known = new()
    await accept(store, known)
    batch = [new(), known, new(), new()]

    def half_done(connection: Connection) -> None:
        inserts.insert(connection, [new("half")], NOW)
        raise ValueError("of its own")

    async with Blocked(store):
        running = [asyncio.create_task(accept(store, task)) for task in batch]
        broken = asyncio.create_task(store.run(half_done))
    results = await asyncio.gather(*running, broken, return_exceptions=True)
    assert [type(result) for result in results] == [
        operations.Accepted,
        StoreConflict,
        operations.Accepted,
        operations.Accepted,
        ValueError,
    ]
    assert await store.run(claims.backlog) == {"default": 4}
    assert store.failure == ""


async def test_who_stops_waiting_does_not_undo_the_transaction(store: Store) -> None:
    async with Blocked(store):
        waiting = asyncio.create_task(accept(store, new()))
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.wait([waiting])
    assert await store.run(claims.backlog) == {"default": 1}


async def test_a_refused_value_is_no_failure_of_the_store(store: Store) -> None:
    def nonsense(connection: Connection) -> None:
        connection.execute(text("INSERT INTO parked (seq) VALUES (1)"))

    with pytest.raises(StoreRefused):
        await store.run(nonsense)
    assert store.failure == ""


async def test_a_damaged_database_is_no_fault_of_what_is_written(store: Store, commits: list[int]) -> None:
    def damaged(_: Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorname = "SQLITE_CORRUPT_INDEX"
        raise DBAPIError("SELECT 1", None, error)

    with pytest.raises(StoreUnavailable, match="damaged, restore it from a backup"):
        await store.run(damaged)
    assert "damaged" in store.failure


async def test_a_stopped_store_finishes_what_it_was_given_and_takes_no_more(store: Store, database: str) -> None:
    async with Blocked(store):
        running = [asyncio.create_task(accept(store, new())) for _ in range(40)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(store.stop())
    await asyncio.gather(*running, stopping)
    with pytest.raises(StoreUnavailable):
        await accept(store, new())
    again = Store(database, telemetry=Telemetry())
    await again.start()
    try:
        assert await again.run(claims.backlog) == {"default": 40}
    finally:
        await again.stop()

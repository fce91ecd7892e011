"""SQLite, durable and alone: what it does when it is locked, full, in use, or newer than this program."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from common.errors import SettingsError, StoreOutOfDate, StoreUnavailable
from common.states import TERMINAL
from common.telemetry import Telemetry
from scheduler_service import operations
from scheduler_service.events import StoreFailed
from scheduler_service.fleet.lanes import lane
from scheduler_service.storage import claims, engine, lanes, schema, tasks
from scheduler_service.storage.engine import open_engine
from scheduler_service.storage.migrate import migrate
from scheduler_service.storage.store import Store
from scheduler_service.storage.upgrade import upgrade
from tests.support.storage import NOW, RULES, accept, claim, new


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warren.db"


def a_store(file: Path) -> Store:
    return Store(f"sqlite:///{file}", telemetry=Telemetry())


def failures(store: Store) -> list[str]:
    reasons: list[str] = []
    store._telemetry.on(StoreFailed, lambda event: reasons.append(event.reason))
    return reasons


async def test_a_commit_survives_a_power_cut(file: Path) -> None:
    """WAL with synchronous=FULL (2): NORMAL may lose the last commits, which the broker was told are safe."""

    def pragmas(connection: Connection) -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}

    store = a_store(file)
    await store.start()
    try:
        assert await store.run(pragmas) == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    finally:
        await store.stop()


async def test_a_locked_database_is_unavailable_until_it_is_not(file: Path) -> None:
    store = a_store(file)
    await store.start()
    reasons = failures(store)
    other = sqlite3.connect(file, isolation_level=None)
    try:
        await accept(store, new())
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="locked"):
                await accept(store, new())
        assert "locked" in store.failure
        assert len(reasons) == 2
        other.execute("ROLLBACK")
        await accept(store, new())
        assert store.failure == ""
        assert await store.run(claims.backlog) == {"default": 2}
    finally:
        other.close()
        await store.stop()


async def test_a_database_that_is_locked_at_the_start_says_so_and_leaves_no_lock_behind(file: Path) -> None:
    first = a_store(file)
    await first.start()
    await first.stop()
    other = sqlite3.connect(file, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await a_store(file).start()
        other.execute("ROLLBACK")
    finally:
        other.close()
    again = a_store(file)
    await again.start()
    await again.stop()


def fill(filler: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_full_disk_loses_nothing_and_the_store_recovers_when_there_is_room(small_disk: Path) -> None:
    store = a_store(small_disk / "warren.db")
    await store.start()
    filler = small_disk / "filler"
    try:
        kept = 5
        await accept(store, *[new() for _ in range(kept)])
        fill(filler)
        large = [new(args=f'["{"x" * 10_000}"]') for _ in range(20)]
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match=r"full|disk I/O"):
                await accept(store, *large)
        assert store.failure != ""
        filler.unlink()
        await accept(store, *large)
        assert store.failure == ""
        assert await store.run(claims.backlog) == {"default": kept + len(large)}
        check = await store.run(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar())
        assert check == "ok"
    finally:
        await store.stop()


SECOND = """
import asyncio, sys
from common.errors import StoreUnavailable
from common.states import TERMINAL
from common.telemetry import Telemetry
from scheduler_service.storage.store import Store
from scheduler_service.storage.upgrade import upgrade

async def main():
    try:
        await Store(sys.argv[1], telemetry=Telemetry()).start()
    except StoreUnavailable as error:
        sys.exit(f"refused: {error}")

asyncio.run(main())
"""


async def test_a_second_process_is_refused(file: Path) -> None:
    store = a_store(file)
    await store.start()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SECOND, f"sqlite:///{file}", stderr=asyncio.subprocess.PIPE
        )
        try:
            _, said = await asyncio.wait_for(process.communicate(), 30.0)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    finally:
        await store.stop()
    assert process.returncode == 1
    assert "refused: another scheduler uses this database" in said.decode()
    assert str(file) in said.decode()


async def test_a_second_store_is_refused_and_does_not_take_the_lock_away(file: Path) -> None:
    first = a_store(file)
    await first.start()
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="another scheduler"):
                await a_store(file).start()
    finally:
        await first.stop()
    again = a_store(file)
    await again.start()
    await again.stop()


async def test_a_newer_schema_is_refused_and_left_as_it_is(file: Path) -> None:
    store = a_store(file)
    await store.start()
    await accept(store, new())
    await store.stop()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreOutOfDate, match=r"9999.*newer Warren"):
        await a_store(file).start()
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
        assert connection.execute("SELECT count(*) FROM tasks").fetchall() == [(1,)]
    connection.close()


def test_the_schema_is_brought_up_to_date_once(file: Path) -> None:
    opened = open_engine(f"sqlite:///{file}")
    try:
        revision = migrate(opened)
        assert migrate(opened) == revision != ""
    finally:
        opened.dispose()


def database_at(file: Path, revision: str, *statements: str) -> None:
    """A database as an older release left it."""
    opened = open_engine(f"sqlite:///{file}")
    with opened.begin() as connection:
        upgrade(connection, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)
    opened.dispose()


def description(file: Path) -> dict[str, Any]:
    """Tables, columns, indexes and the rows that are there from the start."""
    with contextlib.closing(sqlite3.connect(file)) as connection:

        def read(statement: str) -> list[Any]:
            return connection.execute(statement).fetchall()

        tables = [name for (name,) in read("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        found: dict[str, Any] = {name: read(f"PRAGMA table_xinfo({name})") for name in tables}
        indexes = {name: sorted(row[1:] for row in read(f"PRAGMA index_list({name})")) for name in tables}
        found["indexes"] = indexes
        found["how"] = read("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name")
        found["rows"] = {name: read(f"SELECT * FROM {name}") for name in tables if name != "sqlite_sequence"}
        return found


async def test_a_new_database_is_what_the_migrations_lead_to(tmp_path: Path) -> None:
    """It is made without them, and later ones have to find what they expect."""
    migrated, made = tmp_path / "migrated.db", tmp_path / "made.db"
    database_at(migrated, "head")
    store = a_store(made)
    await store.start()
    await store.stop()
    assert description(made) == description(migrated)
    assert description(made)["rows"]["alembic_version"] == [(schema.REVISION,)]


def test_a_start_without_a_migration_does_not_load_alembic(file: Path) -> None:
    program = (
        "import sys, scheduler_service.app\n"
        "from scheduler_service.storage.engine import open_engine\n"
        "from scheduler_service.storage.migrate import migrate\n"
        "for _ in range(2): migrate(open_engine(sys.argv[1]))\n"
        "print('alembic' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{file}"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"


async def test_a_database_of_the_first_release_is_brought_up_to_date_with_all_that_is_in_it(file: Path) -> None:
    database_at(
        file,
        "0001",
        "INSERT INTO tasks (id, task, queue, priority, state, args, kwargs, owner, submitted_at, attempt, lease,"
        " isolation, crashes, held, dispatch, due_at) VALUES"
        " ('old', 'add', 'default', 4, 'scheduled', '[1]', '{}', 'anna', 1.0, 1, '', 'none', 0, 0, 0, 2.0)",
    )
    store = a_store(file)
    await store.start()
    try:
        (stored,) = (await store.run(tasks.load, ["old"])).values()
        assert (stored.task.failures, stored.task.expires_at, stored.options, stored.aliased) == (0, None, None, False)
        ripened = await store.run(operations.ripen, RULES, 10, NOW)
        assert [each.id for each in ripened.due] == ["old"]
        assert [each.assignment.id for each in await claim(store, "default", 1)] == ["old"]
    finally:
        await store.stop()


SECOND_RELEASE = (
    "INSERT INTO tasks (id, task, queue, priority, state, args, kwargs, owner, submitted_at, attempt, lease, isolation,"
    " crashes, held, dispatch, due_at, options, key) VALUES"
)
STATES = ("queued", "scheduled", "dispatched", "succeeded", "failed", "cancelled", "expired")


async def test_a_database_of_the_second_release_gives_what_is_unfinished_its_lane(
    file: Path,
) -> None:
    migration = importlib.import_module("scheduler_service.storage.migrations.versions.0003_lanes")
    rows = []
    for state in STATES:
        for key in (None, "anna"):
            options = None if key is None else f'{{"key":"{key}"}}'
            for number in range(3):
                id_ = f"{state}-{key}-{number}"
                lease = f"lease-{id_}" if state not in ("queued", "scheduled") else ""
                row = (
                    f"('{id_}', 'add', 'mail', {number % 2 + 4}, '{state}', '[1]', '{{}}', 'anna', 1.0, 0, '{lease}',"
                    f" 'none', 0, 0, 0, {2.0 if state == 'scheduled' else 'NULL'},"
                    f" {'NULL' if options is None else repr(options)}, {'NULL' if key is None else repr(key)})"
                )
                rows.append(row)
    database_at(file, "0002", f"{SECOND_RELEASE} {', '.join(rows)}")
    store = a_store(file)
    await store.start()
    try:
        ids = [f"{state}-{key}-{number}" for state in STATES for key in (None, "anna") for number in range(3)]
        found = await store.run(tasks.load, ids)
        assert len(found) == len(ids)
        for stored in found.values():
            expected = lane(stored.queue, stored.priority, stored.name, stored.key).number
            assert migration.lane_number(stored.queue, stored.priority, stored.name, stored.key) == expected
            assert stored.lane == (0 if stored.task.state in TERMINAL else expected), stored.id
        outset = await store.run(operations.outset, NOW)
        assert {each.lane for each in outset.dispatched} == {lane("mail", n, "add", k).number for n, k in MAIL}
        assert sorted(each.count for each in outset.backlog) == [1, 1, 2, 2]
        await store.run(operations.ripen, RULES, 10, NOW)
        claimed = await claim(store, "mail", 20)
        assert len(claimed) == 12
        assert [each.priority for each in claimed] == [5] * 4 + [4] * 8
    finally:
        await store.stop()


MAIL = [(4, ""), (5, ""), (4, "anna"), (5, "anna")]


async def test_a_large_older_database_is_filled_in_batches(file: Path) -> None:
    """More than one batch, with gaps of finished tasks between them."""
    rows = (
        "SELECT 'task-' || n, 'add', 'mail', n % 3, CASE n % 5 WHEN 0 THEN 'succeeded' ELSE 'queued' END, '[]', '{}',"
        " 'anna', 1.0, 0, '', 'none', 0, 0, 0, NULL, NULL, 'tenant-' || (n % 100) FROM numbers"
    )
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 30000)"
    insert = SECOND_RELEASE.replace("VALUES", "")
    database_at(file, "0002", f"{numbers} {insert} {rows}")
    store = a_store(file)
    await store.start()
    try:
        waiting = await store.run(lanes.waiting)
        assert sum(each.count for each in waiting) == 24_000
        assert all(each.number == lane(each.queue, each.priority, each.task, each.key).number for each in waiting)
        assert {each.key for each in waiting} == {f"tenant-{n}" for n in range(100) if n % 5}
    finally:
        await store.stop()


@pytest.mark.parametrize(
    "url", ["postgresql://user:hush@localhost/warren", "sqlite://", "sqlite:///:memory:", "mysql://localhost/x"]
)
def test_another_database_is_refused_in_a_sentence_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError, match="database_url") as refused:
        open_engine(url)
    assert "hush" not in str(refused.value)


def test_a_sqlite_that_is_too_old_is_refused_in_a_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 1))
    with pytest.raises(SettingsError, match=r"needs 3\.35\.0 or later"):
        open_engine(f"sqlite:///{file}")


async def test_the_folder_of_the_database_is_made(tmp_path: Path) -> None:
    store = a_store(tmp_path / "new" / "folder" / "warren.db")
    await store.start()
    await store.stop()
    assert (tmp_path / "new" / "folder" / "warren.db").is_file()


def test_a_file_that_is_no_database_is_left_alone(file: Path) -> None:
    file.write_bytes(b"not a database, but somebody's thesis" * 100)
    with pytest.raises(StoreUnavailable):
        asyncio.run(a_store(file).start())
    assert file.read_bytes().startswith(b"not a database")

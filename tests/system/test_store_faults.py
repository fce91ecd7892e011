"""The database is full or locked: the scheduler says so, acks nothing, and goes on by itself afterwards."""

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Load
from tests.system.conftest import Note, StartCluster
from tests.system.workloads import squares

FLOW = {"chunk": 10, "window": 100}
DISK_BYTES = 12 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "warren-test", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no free byte, until the end of the block."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 65536) == 65536:
            pass
        while file.write(b"\0"):
            pass
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the one write lock, until the end of the block."""
    with contextlib.closing(sqlite3.connect(database, timeout=10.0, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


@contextlib.contextmanager
def misplaced(database: Path) -> Iterator[None]:
    """Take the database file away from where it belongs; it stays open."""
    away = database.with_suffix(".away")
    database.rename(away)
    try:
        yield
        assert not database.exists(), "no empty one is made in its place"
    finally:
        away.rename(database)


def stand(cluster: Cluster, load: Load) -> None:
    """Meet the fault: unready, no task is lost from sight, nothing is acked; and that for a while."""
    cluster.scheduler.await_unready(20)
    assert json.loads(cluster.scheduler.get("/readyz")[1])["checks"]["store"] != "ok"
    before = load.finished
    if cluster.broker.node is not None:
        held = [f"{cluster.namespace}.{queue}" for queue in ("submit", "reply")]
        wait_until(lambda: set(cluster.leftovers()) & set(held), 10, "what is not stored stays in the broker")
    since = time.monotonic()
    while time.monotonic() < since + 3.0:
        assert cluster.scheduler.get("/readyz")[0] == 503, "it is ready although it can store nothing"
        assert cluster.scheduler.metric("warren_store_up") == 0, "a transaction that writes nothing proves nothing"
        assert load.finished == before, "a result was told that cannot have been stored"
        assert cluster.scheduler.get("/healthz")[0] == 200, "a fault of the disk is no reason to be restarted"
        time.sleep(0.1)


def test_disk_full(small_disk: Path, start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster(database=small_disk / "warren.db")
    load = cluster.load(squares, 1500, **FLOW)
    wait_until(lambda: load.finished > 100, 20, "tasks run")
    with filled(small_disk):
        stand(cluster, load)
    cluster.scheduler.await_ready(15)
    load.join(60)

    assert not cluster.scheduler.exits, "it recovers by itself"
    note(cluster.assert_nothing_lost())


def outlast(cluster: Cluster, note: Note, fault: AbstractContextManager[None], says: str) -> None:
    """Meet a fault under load and go on as if nothing had been."""
    load = cluster.load(squares, 600, **FLOW)
    wait_until(lambda: load.finished > 100, 20, "tasks run")
    with fault:
        stand(cluster, load)
        assert says in cluster.scheduler.get("/readyz")[1]
    cluster.scheduler.await_ready(15)
    load.join(60)

    assert not cluster.scheduler.exits, "it recovers by itself"
    verdict = cluster.assert_nothing_lost()
    assert not verdict.twice
    note(verdict)


def test_database_locked(start_cluster: StartCluster, note: Note) -> None:
    cluster = start_cluster()
    outlast(cluster, note, locked(cluster.store.path), "locked")


def test_database_deleted(start_cluster: StartCluster, note: Note) -> None:
    """What is written to a file that nobody can open any more would be gone with the process."""
    cluster = start_cluster()
    outlast(cluster, note, misplaced(cluster.store.path), "was deleted, or replaced")

"""Statements on the stored results of tasks."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw
from sqlalchemy import Connection, func, select

from scheduler_service.storage.prepared import LookUp
from scheduler_service.storage.schema import tasks

_sizes = LookUp(select(tasks.c.id, func.length(tasks.c.result)).where(tasks.c.result.is_not(None)), tasks.c.id)
_results = LookUp(select(tasks.c.id, tasks.c.result).where(tasks.c.result.is_not(None)), tasks.c.id)


def sizes(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """Characters of the stored result of each succeeded task among `ids`."""
    return {row[0]: row[1] for row in _sizes.run(connection, ids)}


def read(connection: Connection, ids: Sequence[str]) -> dict[str, Raw]:
    """The stored results of the succeeded tasks among `ids`; ask for few large ones at a time."""
    return {row[0]: Raw(row[1].encode()) for row in _results.run(connection, ids)}

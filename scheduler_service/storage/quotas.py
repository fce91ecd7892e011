"""Statements on quotas, and on what rates have used up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, select, text

from common.quotas import Quota, Rate, Scope
from scheduler_service.storage.schema import quotas, recent

SLOTS = 100
"""Into how many parts the span of a rate is cut when what it has used up is remembered."""
Limited = tuple[str, str]
"""A scope and a name."""


class Used(Struct, frozen=True, gc=False):
    """What was dispatched at a time under a rate.

    Attributes:
        scope, name: whose rate.
        at: seconds since the epoch.
        count: how many.
    """

    scope: Scope
    name: str
    at: float
    count: int


def read(connection: Connection) -> list[Quota]:
    """Every quota, by scope and name."""
    return [_quota(row) for row in connection.execute(select(quotas).order_by(quotas.c.scope, quotas.c.name))]


def find(connection: Connection, scope: Scope, name: str) -> Quota:
    """One quota; where none was set, what counts without one."""
    found = connection.execute(select(quotas).where(quotas.c.scope == scope.value, quotas.c.name == name)).first()
    return Quota(scope=scope, name=name) if found is None else _quota(found)


def _quota(row: Any) -> Quota:
    return Quota(
        scope=Scope(row.scope),
        name=row.name,
        weight=row.weight,
        rate=None if row.rate_count is None else Rate(row.rate_count, row.rate_per),
        concurrency=row.concurrency,
        paused=bool(row.paused),
        ageing=row.ageing,
    )


def write(connection: Connection, quota: Quota) -> None:
    """Store a quota in place of what was there; one that says nothing is taken out."""
    connection.execute(quotas.delete().where(quotas.c.scope == quota.scope.value, quotas.c.name == quota.name))
    if quota == Quota(scope=quota.scope, name=quota.name):
        return
    connection.execute(
        quotas.insert(),
        {
            "scope": quota.scope.value,
            "name": quota.name,
            "weight": quota.weight,
            "rate_count": None if quota.rate is None else quota.rate.count,
            "rate_per": None if quota.rate is None else quota.rate.per,
            "concurrency": quota.concurrency,
            "paused": quota.paused,
            "ageing": quota.ageing,
        },
    )


# SQLite and PostgreSQL say it in the same words, and SQLAlchemy says it for each of them apart.
_use = text(
    "INSERT INTO recent (scope, name, at, count) VALUES (:scope, :name, :at, :count)"
    " ON CONFLICT (scope, name, at) DO UPDATE SET count = recent.count + excluded.count"
)
_forget = text("DELETE FROM recent WHERE scope = :scope AND name = :name AND at < :before")


def use(connection: Connection, spans: Mapping[Limited, float], counts: Mapping[Limited, int], now: float) -> None:
    """Remember what was dispatched under rates, for as long as their spans.

    Args:
        connection: in the transaction that dispatches it.
        spans: the seconds of each rate's span.
        counts: how many were dispatched under it.
        now: the time, seconds since the epoch.
    """
    rows, old = [], []
    for (scope, name), count in counts.items():
        span = spans[scope, name]
        # Rounded up, so that after a restart the limit is rather kept too long than exceeded.
        at = math.ceil(now / span * SLOTS) * span / SLOTS
        rows.append({"scope": scope, "name": name, "at": at, "count": count})
        old.append({"scope": scope, "name": name, "before": now - span})
    if rows:
        connection.execute(_forget, old)
        connection.execute(_use, rows)


def used(connection: Connection) -> list[Used]:
    """What was dispatched lately, in order."""
    rows = connection.execute(select(recent).order_by(recent.c.at))
    return [Used(Scope(scope), name, at, count) for scope, name, at, count in rows]

"""Quotas and what operators have changed: both in one transaction, so that no change is without its record."""

from __future__ import annotations

from msgspec import UNSET, Struct
from msgspec.structs import asdict, replace

from common.administration import Change, SetQuota
from common.quotas import Quota, Scope
from scheduler_service.storage import changes, quotas
from scheduler_service.storage.engine import Connection


class ChangedQuota(Struct):
    """What became of a quota.

    Attributes:
        quota: as it is now.
        change: what was written down; None when it was so already.
    """

    quota: Quota
    change: Change | None


def set_quota(connection: Connection, ask: SetQuota, user: str, now: float) -> ChangedQuota:
    """Change what is asked for of one quota, and write down by whom.

    Args:
        connection: in a transaction.
        ask: what is to be other than it is.
        user: who wants it.
        now: the time, seconds since the epoch.
    """
    before = quotas.find(connection, ask.scope, ask.name)
    said = {name: value for name, value in asdict(ask).items() if value is not UNSET}
    quota = replace(before, **said)
    if quota == before:
        return ChangedQuota(quota, None)
    quotas.write(connection, quota)
    change = Change(now, user, "quota", ask.name, f"{ask.scope.value}: {_difference(before, quota)}")
    changes.record(connection, change)
    return ChangedQuota(quota, change)


def _difference(before: Quota, quota: Quota) -> str:
    old, new = asdict(before), asdict(quota)
    return ", ".join(f"{name} {_word(old[name])} -> {_word(new[name])}" for name in new if new[name] != old[name])


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def list_quotas(connection: Connection, scope: Scope | None = None) -> list[Quota]:
    """Every quota that was set, of one scope or of all."""
    return [quota for quota in quotas.read(connection) if scope is None or quota.scope is scope]


def record_change(connection: Connection, change: Change) -> None:
    """Write down what an operator has done otherwise: a purge, a command."""
    changes.record(connection, change)


def list_changes(connection: Connection, after: int | None, limit: int) -> tuple[list[Change], int | None]:
    """A page of what operators have changed, the newest first, and where the next page begins."""
    found = changes.before(connection, after, limit)
    return [change for _, change in found], found[-1][0] if len(found) == limit else None

"""Statements on what was refused and kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from scheduler_service.storage.schema import parked


class ParkedMessage(Struct, gc=False):
    """Something refused.

    Attributes:
        origin: the queue that it came from.
        reason: one of a closed set; a metrics label.
        detail: what was wrong, and where.
        payload: the bytes, as they came.
        owner: the broker user who sent it, when known.
        headers: AMQP properties and headers worth keeping, as text.
    """

    origin: str
    reason: str
    detail: str
    payload: bytes
    owner: str | None = None
    headers: dict[str, str] = {}


def park(connection: Connection, messages: Sequence[ParkedMessage], now: float) -> None:
    """Keep refused messages."""
    if messages:
        connection.execute(
            parked.insert(),
            [
                {
                    "at": now,
                    "origin": message.origin,
                    "reason": message.reason,
                    "detail": message.detail[:4000],
                    "owner": message.owner,
                    "headers": msgspec.json.encode(message.headers).decode(),
                    "payload": message.payload,
                }
                for message in messages
            ],
        )


class StoredParked(Struct, gc=False):
    """A parked message without its payload.

    Attributes:
        seq: its number.
        at: when it was parked, seconds since the epoch.
    """

    seq: int
    at: float
    origin: str
    reason: str
    detail: str
    owner: str | None
    headers: dict[str, str]


_shown = select(
    parked.c.seq, parked.c.at, parked.c.origin, parked.c.reason, parked.c.detail, parked.c.owner, parked.c.headers
)


def before(connection: Connection, number: int | None, limit: int) -> list[StoredParked]:
    """Up to `limit` messages parked before the one with this number (None: the newest), the newest first."""
    statement = _shown.order_by(parked.c.seq.desc()).limit(limit)
    if number is not None:
        statement = statement.where(parked.c.seq < number)
    return [_stored(row) for row in connection.execute(statement)]


def numbered(connection: Connection, numbers: Sequence[int]) -> list[StoredParked]:
    """The messages with these numbers."""
    return [_stored(row) for row in connection.execute(_shown.where(parked.c.seq.in_(numbers)))]


def payloads(connection: Connection, numbers: Sequence[int]) -> dict[int, bytes]:
    """The payloads of the messages with these numbers."""
    rows = connection.execute(select(parked.c.seq, parked.c.payload).where(parked.c.seq.in_(numbers)))
    return {row[0]: bytes(row[1]) for row in rows}


def _stored(row: Sequence[Any]) -> StoredParked:
    seq, at, origin, reason, detail, owner, headers = row
    return StoredParked(seq, at, origin, reason, detail, owner, msgspec.json.decode(headers, type=dict[str, str]))


def count(connection: Connection) -> int:
    """How many are parked."""
    return connection.execute(select(func.count()).select_from(parked)).scalar_one()

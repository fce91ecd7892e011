"""Statements on what was refused and kept."""

from __future__ import annotations

from collections.abc import Sequence

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


def count(connection: Connection) -> int:
    """How many are parked."""
    return connection.execute(select(func.count()).select_from(parked)).scalar_one()

"""Identifiers: task ids that sort by time, and leases that cannot be guessed."""

from __future__ import annotations

import base64
import os
import re
import time

TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The form of a task id: a UUID in lower case with its four hyphens."""


def new_task_id() -> str:
    """A UUIDv7 as text: 48 bits of milliseconds, then 74 random bits (RFC 9562 section 5.7).

    Ids made in the same millisecond are in no particular order; the store keeps the order of arrival.
    """
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_leases(count: int) -> list[str]:
    """`count` leases of 128 random bits each, as 22 characters of URL-safe base64."""
    noise = os.urandom(16 * count)
    encode = base64.urlsafe_b64encode
    return [encode(noise[at : at + 16])[:22].decode() for at in range(0, 16 * count, 16)]


def new_nonce() -> str:
    """A short random name part (96 bits) for queues that belong to one connection."""
    return base64.urlsafe_b64encode(os.urandom(12)).decode()

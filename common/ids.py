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
    noise, at = os.urandom(10), f"{time.time_ns() // 1_000_000:012x}"
    text = noise.hex()
    return f"{at[:8]}-{at[8:]}-7{text[:3]}-{'89ab'[noise[1] & 3]}{text[5:8]}-{text[8:]}"


def new_leases(count: int) -> list[str]:
    """`count` leases of 120 random bits each, as 20 characters of URL-safe base64."""
    noise = base64.urlsafe_b64encode(os.urandom(15 * count)).decode()
    return [noise[at : at + 20] for at in range(0, 20 * count, 20)]


def new_nonce() -> str:
    """A short random name part (96 bits) for queues that belong to one connection."""
    return base64.urlsafe_b64encode(os.urandom(12)).decode()

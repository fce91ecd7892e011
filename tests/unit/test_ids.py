"""Ids sort by time and cannot be guessed."""

from __future__ import annotations

import re
import time
import uuid

from common.ids import TASK_ID, new_leases, new_nonce, new_task_id

MANY = 2000


def test_a_task_id_is_a_uuid_of_version_7() -> None:
    made = uuid.UUID(new_task_id())
    assert (made.variant, made.version) == (uuid.RFC_4122, 7)
    assert TASK_ID.fullmatch(str(made))


def test_a_task_id_begins_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_task_id())
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_task_ids_sort_by_time() -> None:
    first = new_task_id()
    start = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == start:
        pass
    assert first < new_task_id()


def test_no_two_task_ids_are_equal_and_each_random_bit_varies() -> None:
    ids = {uuid.UUID(new_task_id()).int for _ in range(MANY)}
    assert len(ids) == MANY
    fixed = 0xF000 << 64 | 0b11 << 62
    random_bits = ((1 << 80) - 1) & ~fixed
    ones = zeros = 0
    for number in ids:
        ones |= number
        zeros |= ~number
    assert ones & zeros & random_bits == random_bits


def test_leases_are_20_url_safe_characters_of_120_random_bits() -> None:
    leases = new_leases(MANY)
    assert len(set(leases)) == MANY
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{20}", lease) for lease in leases)
    assert new_leases(0) == []


def test_a_nonce_is_a_valid_name_part_and_never_the_same() -> None:
    nonces = {new_nonce() for _ in range(MANY)}
    assert len(nonces) == MANY
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", nonce) for nonce in nonces)

"""What limits of functions and keys leave of what waits."""

from __future__ import annotations

from typing import Any

import pytest

from common.quotas import Quota, Rate, Scope
from scheduler_service.fleet.fairness import Waiting
from scheduler_service.fleet.quotas import Ledger
from scheduler_service.fleet.restraint import Restraint, restraint
from tests.support.fleet import of

RUN, TARGET = 2.0, 60.0


def held(*waiting: tuple[str, str, int], **quotas: dict[str, Any]) -> Restraint:
    """Of so many tasks of a function and a key, with quotas by ``task_name`` and ``key_name``."""
    ledger = Ledger()
    for name, what in quotas.items():
        scope, _, called = name.partition("_")
        ledger.set(Quota(scope=Scope(scope), name=called, **what))
    lanes = [Waiting(of("q", key, task=task), count, 0, None) for task, key, count in waiting]
    return restraint(lanes, ledger, RUN, TARGET)


@pytest.mark.parametrize(
    ("waiting", "quotas", "expected"),
    [
        ([("add", "", 500)], {}, Restraint(500)),
        ([("add", "", 500)], {"task_add": {"weight": 2.0}}, Restraint(500)),
        ([("add", "", 500)], {"task_add": {"concurrency": 2}}, Restraint(60, 2.0, 500.0)),
        ([("add", "", 500)], {"task_add": {"rate": Rate(5, 1.0)}}, Restraint(300, 10.0, 100.0)),
        ([("add", "", 500)], {"task_add": {"rate": Rate(5, 1.0), "concurrency": 2}}, Restraint(60, 2.0, 500.0)),
        ([("add", "", 500)], {"task_add": {"paused": True}}, Restraint(0, 0.0, None)),
        ([("add", "a", 500), ("add", "b", 500)], {"key_a": {"paused": True}}, Restraint(500, None, None)),
        ([("add", "a", 500), ("sub", "a", 500)], {"key_a": {"concurrency": 2}}, Restraint(60, 2.0, 1000.0)),
        (
            [("add", "a", 500), ("add", "b", 500)],
            {"task_add": {"concurrency": 3}, "key_a": {"concurrency": 1}},
            Restraint(90, 4.0, 1000.0),
        ),
        ([("add", "", 10)], {"task_add": {"concurrency": 2}}, Restraint(10, 2.0, 10.0)),
    ],
)
def test_what_is_left(
    waiting: list[tuple[str, str, int]], quotas: dict[str, dict[str, Any]], expected: Restraint
) -> None:
    assert held(*waiting, **quotas) == expected

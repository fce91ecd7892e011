"""The short way of a success says what the transition function says, and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from common.states import Cancelled, Event, Failed, Held, Returned, State, Succeeded, Verdict, transition
from common.wire import NULL, ErrorInfo, ErrorKind
from scheduler_service import operations
from scheduler_service.operations import Report
from scheduler_service.operations.applying import end
from scheduler_service.storage import claims, successes
from scheduler_service.storage.store import Store
from tests.support.storage import NOW, RULES, accept, apply, claim, dispatched, load, new

BOOM = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", "boom")


async def _prepared(store: Store, state: str) -> tuple[str, str]:
    """A task in some state, and the lease of its last dispatch."""
    if state == "queued":
        task = new()
        await accept(store, task)
        return task.message.id, ""
    id_, lease = await dispatched(store)
    before: dict[str, Event] = {
        "returned": Returned(lease),
        "held": Held(lease),
        "failed": Failed(1, lease, BOOM),
        "succeeded": Succeeded(1, lease, Raw(b"1")),
    }
    if state in before:
        await apply(store, (id_, before[state]))
    if state == "retried":
        await apply(store, (id_, Returned(lease)))
        (again,) = await claim(store, "default", 1, first=50)
        lease = again.assignment.lease
    if state == "cancelled":
        known = [await load(store, id_)]
        await store.run(end, known, Cancelled(), RULES, NOW + 1)
    return id_, lease


@pytest.mark.parametrize(
    ("state", "lease", "attempt"),
    list(
        itertools.product(
            ("queued", "dispatched", "retried", "held", "returned", "failed", "succeeded", "cancelled"),
            ("right", "", "forged"),
            (0, 1, 2),
        )
    ),
)
async def test_it_takes_what_the_transition_function_takes_and_writes_the_same(
    store: Store, state: str, lease: str, attempt: int
) -> None:
    id_, right = await _prepared(store, state)
    before = await load(store, id_)
    event = Succeeded(attempt, right if lease == "right" else lease, Raw(b'{"a":1}'))
    expected = transition(before.task, event, NOW + 2, RULES)
    outcomes = await apply(store, (id_, event))
    after = await load(store, id_)
    if expected.verdict is not Verdict.CHANGED:
        assert (outcomes.finished, [each.verdict for each in outcomes.applied]) == ([], [expected.verdict])
        assert after == before
        return
    (finished,) = outcomes.finished
    assert outcomes.applied == []
    assert (finished.lease, finished.run_seconds, bytes(finished.result)) == (right, 0.5, b'{"a":1}')
    task = finished.task
    assert (task.id, task.name, task.queue, task.reply_to, task.submitted_at, task.aliased) == (
        (id_, before.name, before.queue, before.reply_to, before.submitted_at, 0)
    )
    (result,) = await store.run(operations.results_of, [id_])
    assert bytes(result.result) == b'{"a":1}'
    before.finished_at, before.worker = NOW + 2, "worker-1"
    before.task = replace(expected.task, result=NULL)  # results are read apart
    assert after == before
    assert after.task.state is State.SUCCEEDED


async def test_what_is_said_twice_in_a_batch_is_for_the_rules(store: Store) -> None:
    (first, lease), (second, other) = await dispatched(store), await _next(store)
    outcomes = await apply(
        store,
        (first, Succeeded(1, lease, Raw(b"1"))),
        (second, Succeeded(1, other, Raw(b"2"))),
        (first, Succeeded(1, lease, Raw(b"3"))),
    )
    assert [each.task.id for each in outcomes.finished] == [second]
    assert [each.verdict for each in outcomes.applied] == [Verdict.CHANGED, Verdict.REPEATED]
    (result,) = await store.run(operations.results_of, [first])
    assert bytes(result.result) == b"1"


async def _next(store: Store) -> tuple[str, str]:
    task = new()
    await accept(store, task)
    (claimed,) = await claim(store, "default", 1, first=70)
    return task.message.id, claimed.assignment.lease


@pytest.mark.parametrize(
    "result", ['"a\\u0000b"', '"\\ud83d\\ude00 ü \\" \\\\u0000"', '"' + "x" * 300_000 + '"', "1e999"]
)
async def test_each_result_is_stored_as_it_came(store: Store, result: str) -> None:
    id_, lease = await dispatched(store)
    await apply(store, (id_, Succeeded(1, lease, Raw(result.encode()))))
    (told,) = await store.run(operations.results_of, [id_])
    assert bytes(told.result).decode() == result


async def test_a_worker_with_a_nul_in_its_name_is_kept_as_it_is(store: Store) -> None:
    id_, lease = await dispatched(store)
    report = Report(id_, Succeeded(1, lease, Raw(b"1")), "a\0b", 0.5)
    await store.run(operations.apply, [report], RULES, 0, NOW + 2)
    assert (await load(store, id_)).worker == "a\0b"


async def test_a_result_that_is_no_utf_8_is_refused_and_nothing_is_written(store: Store) -> None:
    id_, lease = await dispatched(store)
    with pytest.raises(ValueError, match="utf-8"):
        await apply(store, (id_, Succeeded(1, lease, Raw(b'"\xff"'))))
    assert (await load(store, id_)).task.state is State.DISPATCHED


async def test_a_success_is_found_by_the_index_of_ids(store: Store) -> None:
    """A plan that reads the whole table is right, and ends the system with a million tasks."""
    id_, lease = await dispatched(store)

    def plans(connection: Connection) -> str:
        seen: list[str] = []
        raw: Any = connection.connection.dbapi_connection
        raw.set_trace_callback(seen.append)
        try:
            operations.apply(connection, [Report(id_, Succeeded(1, lease), "w")], RULES, 0, NOW)
        finally:
            raw.set_trace_callback(None)
        sql = next(each for each in seen if each.startswith("UPDATE tasks"))
        return "; ".join(
            row[3] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {sql.replace(':', chr(92) + ':')}"))
        )

    plan = await store.run(plans)
    assert "SEARCH tasks USING INDEX sqlite_autoindex_tasks_1 (id=?)" in plan


def test_changes_are_made_for_postgresql_too() -> None:
    for change in (successes._succeed, claims._claim):
        sql = str(change.statement().compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
        assert "FROM jsonb_array_elements(CAST(%(rows)s AS JSONB)) AS e" in sql
        assert "RETURNING" in sql

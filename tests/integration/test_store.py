"""What every database has to do for the scheduler."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw
from sqlalchemy import Connection

from common.errors import StoreConflict, StoreUnavailable
from common.ids import new_task_id
from common.options import TaskOptions
from common.states import Event, Failed, Held, Lost, Returned, State, Succeeded, UnknownFunction, Verdict
from common.telemetry import Telemetry
from common.wire import ErrorInfo, ErrorKind, Isolation
from scheduler_service import operations
from scheduler_service.storage import claims, marks, parked, tasks
from scheduler_service.storage.claims import Turn
from scheduler_service.storage.parked import ParkedMessage
from scheduler_service.storage.store import Store
from scheduler_service.storage.tasks import Placement
from tests.support.storage import (
    NOW,
    RULES,
    accept,
    accept_carefully,
    apply,
    claim,
    dispatched,
    load,
    new,
    parked_rows,
    placements,
)

BOOM = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", "boom: ünïcode \x00 '; DROP TABLE tasks; --")


# --- accepting ---------------------------------------------------------------------------------------------------


async def test_a_task_is_stored_as_it_came(store: Store) -> None:
    task = new("email", 7, task="mail.send", args='["ü\\u0000", 1e999]', kwargs='{"a": null}', owner="bob")
    await accept(store, task)
    stored = await load(store, task.message.id)
    assert (stored.name, stored.queue, stored.priority, stored.owner) == ("mail.send", "email", 7, "bob")
    assert (stored.reply_to, stored.submitted_at, stored.finished_at) == ("inbox", NOW, None)
    assert (stored.task.state, stored.task.attempt, stored.task.lease) == (State.QUEUED, 0, "")
    (claimed,) = await claim(store, "email", 1)
    assert (bytes(claimed.assignment.args), bytes(claimed.assignment.kwargs)) == (
        task.args.encode(),
        task.kwargs.encode(),
    )


async def test_a_task_that_may_go_at_once_is_stored_as_dispatched(store: Store) -> None:
    task = new(placement=Placement("lease-7", 7))
    await accept(store, task)
    stored = await load(store, task.message.id)
    assert (stored.task.state, stored.task.attempt, stored.task.lease) == (State.DISPATCHED, 1, "lease-7")
    assert stored.dispatched_at == NOW
    assert await claim(store, "default", 1) == []


async def test_a_task_that_goes_by_express_is_stored_with_its_worker(store: Store) -> None:
    express = new(placement=Placement("lease-8", 8, "w1"), options=TaskOptions(key="small"))
    other = new(placement=Placement("lease-9", 9), options=TaskOptions(key="small"))
    await accept(store, express, other)
    out = await store.run(claims.dispatched, NOW)
    assert {task.assignment.lease: task.worker for task in out} == {"lease-8": "w1", "lease-9": ""}


async def test_a_refused_task_is_stored_as_failed(store: Store) -> None:
    refusal = ErrorInfo(ErrorKind.REFUSED, "Refused", "too deep")
    task = new(refusal=refusal)
    await accept(store, task)
    stored = await load(store, task.message.id)
    assert (stored.task.state, stored.task.error, stored.finished_at) == (State.FAILED, refusal, NOW)


async def test_accepting_a_known_id_stores_nothing_of_the_batch(store: Store) -> None:
    known, other = new(), new()
    await accept(store, known)
    with pytest.raises(StoreConflict):
        await accept(store, other, known)
    assert await store.run(tasks.load, [other.message.id]) == {}


async def test_the_same_id_with_the_same_content_is_the_same_task_told_at_the_new_place(store: Store) -> None:
    first = new(reply_to="old")
    await accept(store, first)
    again, fresh = new(id=first.message.id, reply_to="new"), new()
    accepted = await accept_carefully(store, again, fresh)
    assert accepted.stored == [fresh]
    assert [stored.id for stored in accepted.known] == [first.message.id]
    assert accepted.conflicts == []
    assert (await load(store, first.message.id)).reply_to == "new"


async def test_coming_again_without_a_reply_queue_leaves_where_it_is_told(store: Store) -> None:
    first = new(reply_to="old")
    await accept(store, first)
    await accept_carefully(store, new(id=first.message.id, reply_to=None))
    assert (await load(store, first.message.id)).reply_to == "old"


@pytest.mark.parametrize(
    "other",
    [{"args": "[2]"}, {"kwargs": '{"a":1}'}, {"task": "sub"}, {"queue": "email"}, {"priority": 5}, {"owner": "bob"}],
    ids=lambda other: next(iter(other)),
)
async def test_the_same_id_with_other_content_is_parked_and_the_first_is_untouched(
    store: Store, other: dict[str, Any]
) -> None:
    first = new()
    await accept(store, first)
    before = await load(store, first.message.id)
    changed = new(id=first.message.id, **{"reply_to": "thief", **other})
    accepted = await accept_carefully(store, changed)
    assert (accepted.stored, accepted.known, accepted.conflicts) == ([], [], [changed])
    assert await load(store, first.message.id) == before
    ((origin, reason, detail, payload, owner),) = await parked_rows(store)
    assert (origin, reason, owner) == ("submit", "conflict", changed.owner)
    assert first.message.id in detail
    assert changed.args.encode() in payload


async def test_twice_in_one_batch_is_stored_once(store: Store) -> None:
    first = new()
    same, other = new(id=first.message.id), new(id=first.message.id, args="[2]")
    accepted = await accept_carefully(store, first, same, other)
    assert (accepted.stored, accepted.conflicts) == ([first], [other])
    assert len(await parked_rows(store)) == 1
    assert (await store.run(claims.backlog)) == {"default": 1}


async def test_a_large_batch_with_known_ids_is_taken(store: Store) -> None:
    batch = [new() for _ in range(3000)]
    await accept(store, *batch[:1500])
    accepted = await accept_carefully(store, *batch)
    assert (len(accepted.stored), len(accepted.known)) == (1500, 1500)


async def test_what_is_refused_is_parked_in_the_same_transaction(store: Store) -> None:
    message = ParkedMessage("submit", "undecodable", "x" * 10_000, b"\xff\x00", "anna", {"type": "t"})
    await store.run(operations.accept, [new()], [message], 0, NOW)
    ((origin, reason, detail, payload, owner),) = await parked_rows(store)
    assert (origin, reason, len(detail), payload, owner) == ("submit", "undecodable", 4000, b"\xff\x00", "anna")
    known = new()
    await accept(store, known)
    with pytest.raises(StoreConflict):
        await store.run(operations.accept, [known], [message], 0, NOW)
    assert await store.run(parked.count) == 1


# --- claiming ----------------------------------------------------------------------------------------------------


async def test_claims_go_by_priority_then_store_order(store: Store) -> None:
    order = [new(priority=priority) for priority in (4, 9, 0, 4, 9)]
    await accept(store, *order)
    claimed = await claim(store, "default", 4)
    assert [each.assignment.id for each in claimed] == [order[at].message.id for at in (1, 4, 0, 3)]
    assert [each.number for each in claimed] == [1, 2, 3, 4]
    assert {each.assignment.attempt for each in claimed} == {1}
    (last,) = await claim(store, "default", 4, first=5)
    assert (last.assignment.id, last.assignment.lease) == (order[2].message.id, "lease-5")
    assert await claim(store, "default", 1, first=9) == []


async def test_a_claim_takes_only_of_its_queue(store: Store) -> None:
    mail = new("email")
    await accept(store, new(), mail)
    assert [each.assignment.id for each in await claim(store, "email", 5)] == [mail.message.id]


async def test_several_turns_are_claimed_in_one_transaction(store: Store) -> None:
    here, mail = new(), [new("email") for _ in range(3)]
    await accept(store, here, *mail)
    turns = [
        Turn([mail[0].lane], placements(2)),
        Turn([here.lane], placements(5, first=3)),
        Turn([mail[0].lane, here.lane], placements(3, first=8)),
        Turn([12345], placements(1, first=11)),
        Turn([], placements(1, first=12)),
        Turn([here.lane], []),
    ]
    claimed = await store.run(operations.claim, turns, {}, RULES, 0, NOW)
    assert [[task.number for task in each.tasks] for each in claimed] == [[1, 2], [3], [8], [], [], []]
    lanes_found = [each.found for each in claimed]
    assert lanes_found == [{mail[0].lane: 2}, {here.lane: 1}, {mail[0].lane: 1}, {}, {}, {}]


async def test_a_task_that_comes_back_keeps_its_place_in_the_order(store: Store) -> None:
    order = [new() for _ in range(3)]
    await accept(store, *order)
    (first,) = await claim(store, "default", 1)
    await apply(store, (first.assignment.id, Returned(first.assignment.lease)))
    again = await claim(store, "default", 3, first=2)
    assert [each.assignment.id for each in again] == [task.message.id for task in order]
    assert again[0].assignment.attempt == 1


# --- applying ----------------------------------------------------------------------------------------------------


async def test_an_outcome_is_stored(store: Store) -> None:
    id_, lease = await dispatched(store)
    outcomes = await apply(store, (id_, Succeeded(1, lease, Raw('{"ü": [1e999]}'.encode()))))
    assert ([each.task.id for each in outcomes.finished], outcomes.applied) == ([id_], [])
    stored = await load(store, id_)
    assert stored.task.state is State.SUCCEEDED
    (told,) = await store.run(operations.results_of, [id_])
    assert (told.state, bytes(told.result)) == ("succeeded", '{"ü": [1e999]}'.encode())
    assert (stored.finished_at, stored.worker) == (NOW + 2, "worker-1")


async def test_an_error_is_stored_with_all_its_text(store: Store) -> None:
    id_, lease = await dispatched(store)
    await apply(store, (id_, Failed(1, lease, BOOM)))
    assert (await load(store, id_)).task.error == BOOM


async def test_of_two_outcomes_in_one_batch_the_first_counts_and_the_second_is_told_again(store: Store) -> None:
    id_, lease = await dispatched(store)
    outcomes = await apply(store, (id_, Succeeded(1, lease, Raw(b"1"))), (id_, Failed(1, lease, BOOM)))
    first, second = outcomes.applied
    assert (first.verdict, second.verdict) == (Verdict.CHANGED, Verdict.REPEATED)
    assert (first.finished, second.finished) == (True, False)
    assert second.task is not None
    assert bytes(second.task.result) == b"1"
    assert (await load(store, id_)).task.state is State.SUCCEEDED


@pytest.mark.parametrize(
    "event",
    [Succeeded(1, "forged"), Succeeded(2, "lease-1"), Failed(1, "", BOOM), Returned("forged"), Lost("", True)],
)
async def test_a_stale_or_forged_outcome_changes_nothing(store: Store, event: Event) -> None:
    id_, _ = await dispatched(store)
    before = await load(store, id_)
    (applied,) = (await apply(store, (id_, event))).applied
    assert applied.verdict is Verdict.STALE
    assert await load(store, id_) == before


async def test_an_outcome_of_an_unknown_task_changes_nothing(store: Store) -> None:
    (applied,) = (await apply(store, (new_task_id(), Succeeded(1, "lease-1")), mark=5)).applied
    assert (applied.verdict, applied.stored, applied.task) == (Verdict.STALE, None, None)


async def test_every_field_that_the_rules_change_is_stored(store: Store) -> None:
    id_, lease = await dispatched(store)
    await apply(store, (id_, Held(lease)))
    assert (await load(store, id_)).task.held
    await apply(store, (id_, Failed(1, lease, ErrorInfo(ErrorKind.CRASHED, "Crashed", "signal 9"))))
    task = (await load(store, id_)).task
    assert (task.state, task.crashes, task.isolation, task.held) == (State.QUEUED, 1, Isolation.CHILD, False)
    (claimed,) = await claim(store, "default", 1, first=2)
    assert (claimed.assignment.attempt, claimed.assignment.isolation) == (2, Isolation.CHILD)
    unknown = UnknownFunction(claimed.assignment.lease, ErrorInfo(ErrorKind.UNKNOWN_FUNCTION, "Unknown", "add"))
    await apply(store, (id_, unknown))
    task = (await load(store, id_)).task
    assert (task.state, task.attempt, task.due_at) == (State.SCHEDULED, 1, NOW + 3)
    assert task.unknown_since == NOW + 2


async def test_a_write_that_meets_another_change_is_given_up(store: Store) -> None:
    """The compare-and-set below the rules: nobody overwrites what he has not read."""
    id_, lease = await dispatched(store)
    stale = await load(store, id_)
    await apply(store, (id_, Returned(lease)))
    for done in (State.SUCCEEDED, State.QUEUED):

        def overwrite(connection: Connection, state: State = done) -> None:
            tasks.save(connection, [(stale, type(stale.task)(state))], NOW)

        with pytest.raises(StoreUnavailable):
            await store.run(overwrite)
    assert (await load(store, id_)).task.state is State.QUEUED
    assert await claim(store, "default", 1, first=2) != []


async def test_scheduled_tasks_ripen_when_they_are_due(store: Store) -> None:
    id_, lease = await dispatched(store)
    unknown = UnknownFunction(lease, ErrorInfo(ErrorKind.UNKNOWN_FUNCTION, "Unknown", "add"))
    await apply(store, (id_, unknown))
    early = await store.run(operations.ripen, RULES, 10, NOW + 2.9)
    assert (early.due, early.next) == ([], NOW + 3)
    ripened = await store.run(operations.ripen, RULES, 10, NOW + 3)
    assert [stored.id for stored in ripened.due] == [id_]
    assert ripened.next is None
    assert (await load(store, id_)).task.state is State.QUEUED


# --- asking ------------------------------------------------------------------------------------------------------


async def test_waiting_gives_what_is_terminal_and_points_the_rest(store: Store) -> None:
    id_, lease = await dispatched(store)
    later, foreign = new(reply_to=None), new(owner="bob")
    await accept(store, later, foreign)
    await apply(store, (id_, Succeeded(1, lease, Raw(b"5"))))
    missing = new_task_id()
    ids = [id_, later.message.id, foreign.message.id, missing, later.message.id]
    terminal, unknown = await store.run(operations.wait_for, ids, "anna", "here")
    assert terminal == [id_]
    assert unknown == [foreign.message.id, missing]
    assert (await load(store, later.message.id)).reply_to == "here"
    assert (await load(store, foreign.message.id)).reply_to == "inbox"


async def test_large_results_are_read_in_pages(store: Store) -> None:
    ids = []
    for size in (3_000_000, 2_000_000, 10, 10, 4_500_000):
        id_, lease = await dispatched(store)
        await apply(store, (id_, Succeeded(1, lease, Raw(b'"' + b"x" * size + b'"'))))
        ids.append(id_)
    unfinished = new()
    await accept(store, unfinished)
    pages = await store.run(operations.result_pages, [*ids, unfinished.message.id])
    assert pages[0] == ids[:1]
    assert pages[1] == ids[1:4]
    assert pages[2][0] == ids[4]
    results = await store.run(operations.results_of, pages[2])
    assert [(result.id, len(bytes(result.result))) for result in results] == [(ids[4], 4_500_002)]


async def test_only_the_owner_sees_a_task(store: Store) -> None:
    mine, foreign = new(), new(owner="bob")
    await accept(store, mine, foreign)
    found, unknown = await store.run(operations.look_up, [foreign.message.id, mine.message.id], "anna")
    assert ([stored.id for stored in found], unknown) == ([mine.message.id], [foreign.message.id])


# --- marks and the start -----------------------------------------------------------------------------------------


async def test_the_mark_is_written_with_each_transaction_and_read_at_the_start(store: Store) -> None:
    def mark(connection: Connection) -> int:
        return marks.read(connection, marks.CONFIRMED)

    assert await store.run(mark) == 0
    await store.run(operations.accept, [new(), new("email")], [], 3, NOW)
    assert await store.run(mark) == 3
    await claim(store, "default", 1, first=4, mark=4)
    assert await store.run(mark) == 4
    await apply(store, mark=5)
    assert await store.run(mark) == 5
    await store.run(operations.write_mark, 6)
    outset = await store.run(operations.outset, NOW)
    assert (outset.confirmed, [(lane.queue, lane.count) for lane in outset.backlog]) == (6, [("email", 1)])
    assert [(each.number, each.assignment.lease) for each in outset.dispatched] == [(4, "lease-4")]


async def test_everything_is_there_after_closing_and_opening_again(store: Store, database: str) -> None:
    id_, lease = await dispatched(store)
    await store.stop()
    again = Store(database, telemetry=Telemetry())
    await again.start()
    try:
        assert (await load(again, id_)).task.lease == lease
    finally:
        await again.stop()

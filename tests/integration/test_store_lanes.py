"""Lanes in the store: turns over many of them, moving, what rates have used up, quotas and their record."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from msgspec import UNSET
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from common.administration import Change, SetQuota
from common.errors import StoreUnavailable
from common.options import TaskOptions
from common.questions import Filter
from common.quotas import Quota, Rate, Scope
from common.states import Returned, State
from scheduler_service import operations
from scheduler_service.operations import RearrangedPage
from scheduler_service.storage import changes, lanes, moves, quotas
from scheduler_service.storage.claims import Turn
from scheduler_service.storage.lanes import FirstOf, choose
from scheduler_service.storage.moves import Moved
from scheduler_service.storage.store import Store
from scheduler_service.storage.tasks import NewTask
from tests.support.storage import (
    NOW,
    RULES,
    accept,
    accept_carefully,
    apply,
    claim,
    lane_number,
    load,
    new,
    parked_rows,
    placements,
)

# --- turns ---------------------------------------------------------------------------------------------------------


def of(key: str, queue: str = "default", **more: Any) -> NewTask:
    return new(queue, options=TaskOptions(key=key), **more)


async def test_a_turn_goes_in_store_order_across_its_lanes(store: Store) -> None:
    batch = [new(task=random.choice("abcdefgh")) for _ in range(300)]
    await accept(store, *batch)
    numbers = list({task.lane for task in batch})
    seen: list[str] = []
    for count in (1, 2, 5, 40, 100, 500):
        (each,) = await store.run(operations.claim, [Turn(numbers, placements(count))], {}, RULES, 0, NOW)
        seen += [task.assignment.id for task in each.tasks]
    assert seen == [task.message.id for task in batch]


async def test_a_turn_over_lanes_of_very_different_lengths_is_in_order_too(store: Store) -> None:
    """All of the next tasks are in one of many lanes: its share is not enough."""
    first = [new(task="a") for _ in range(400)]
    others = [new(task=f"b{n}") for n in range(50) for _ in range(10)]
    await accept(store, *first, *others)
    numbers = list({task.lane for task in (*first, *others)})
    (each,) = await store.run(operations.claim, [Turn(numbers, placements(500))], {}, RULES, 0, NOW)
    assert [task.assignment.id for task in each.tasks] == [task.message.id for task in (*first, *others)][:500]
    assert each.found[first[0].lane] == 400


@pytest.mark.parametrize("seed", range(30))
def test_what_is_chosen_is_what_a_look_at_all_would_choose(seed: int) -> None:
    dice = random.Random(seed)
    places = {lane: [] for lane in range(dice.randint(1, 8))}  # type: dict[int, list[int]]
    for seq in range(dice.randint(0, 60)):
        places[dice.choice(list(places))].append(seq)
    turns = [
        (dice.sample(sorted(places), dice.randint(1, len(places))), dice.randint(0, 12))
        for _ in range(dice.randint(1, 6))
    ]
    expected: list[list[tuple[int, int]]] = []
    gone: set[int] = set()
    for mine, count in turns:
        left = sorted((seq, lane) for lane in mine for seq in places[lane] if seq not in gone)[:count]
        gone.update(seq for seq, _ in left)
        expected.append(left)
    depth = 1
    while True:
        known = {lane: each[:depth] for lane, each in places.items()}
        whole = {lane for lane, each in places.items() if len(each) < depth}
        chosen, short = choose(turns, known, whole)
        if not short:
            break
        assert depth <= 60
        depth += 1
    assert chosen == expected


async def test_a_claim_over_a_thousand_lanes_takes_few_statements(store: Store) -> None:
    batch = [of(f"tenant-{n}") for n in range(1000) for _ in range(3)]
    await accept(store, *batch)
    numbers = list({task.lane for task in batch})
    statements: list[str] = []

    def counted(connection: Connection) -> list[operations.Claimed]:
        assert isinstance(connection, Connection)
        raw: Any = connection.connection.dbapi_connection
        raw.set_trace_callback(statements.append)
        try:
            turns = [Turn([number], placements(1, first=at + 1)) for at, number in enumerate(numbers)]
            return operations.claim(connection, turns, {}, RULES, 0, NOW)
        finally:
            raw.set_trace_callback(None)

    claimed = await store.run(counted)
    assert [len(each.tasks) for each in claimed] == [1] * 1000
    assert Counter(sql.split()[0] for sql in statements)["SELECT"] <= 3


def test_another_database_is_asked_in_its_own_words() -> None:
    sql = str(FirstOf.statement().compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "unnest" in sql
    assert "LATERAL" in sql
    assert "FOR UPDATE SKIP LOCKED" in sql
    assert "state = 'queued'" in sql


@pytest.mark.parametrize("statement", ["firsts", "rows", "counts"])
async def test_what_is_claimed_is_found_by_its_indexes(store: Store, statement: str) -> None:
    """A plan that reads the whole table is right, and ends the system with a million tasks."""
    await accept(store, *(new(task=f"t{n % 7}") for n in range(2000)))

    def plans(connection: Connection) -> str:
        seen: list[str] = []
        raw: Any = connection.connection.dbapi_connection
        raw.set_trace_callback(seen.append)
        try:
            if statement == "counts":
                lanes.waiting(connection)
            else:
                number = lanes.waiting(connection)[0].number
                seen.clear()
                operations.claim(connection, [Turn([number], placements(3))], {}, RULES, 0, NOW)
        finally:
            raw.set_trace_callback(None)
        wanted = {"firsts": "json_each", "rows": "UPDATE tasks", "counts": "count("}[statement]
        sql = next(each for each in seen if wanted in each)
        return "; ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}"))

    plan = await store.run(plans)
    assert "SCAN tasks USING COVERING INDEX ix_tasks_queued" in plan if statement == "counts" else "SCAN t" not in plan
    assert {"firsts": "ix_tasks_queued (lane=?)", "rows": "INTEGER PRIMARY KEY (rowid=?)", "counts": ""}[
        statement
    ] in plan


async def test_what_is_over_is_ended_and_counted_as_found(store: Store) -> None:
    over, fine = new(expires_at=NOW - 1), new()
    await accept(store, over, fine)
    (each,) = await store.run(operations.claim, [Turn([fine.lane], placements(1))], {}, RULES, 0, NOW)
    assert ([ended.stored.id for ended in each.ended], each.tasks) == ([over.message.id], [])
    assert each.found == {fine.lane: 1}


async def test_a_lane_is_described_by_its_tasks(store: Store) -> None:
    plain, rich = new("email", 7, task="send"), of("anna", priority=2)
    rich.message.options = TaskOptions(key="anna", requires=("gpu", "ssd"))
    await accept(store, plain, new("email", 7, task="send"), rich)
    found = {lane.number: lane for lane in await store.run(lanes.waiting)}
    mail, other = found[plain.lane], found[rich.lane]
    assert (mail.queue, mail.priority, mail.task, mail.key, mail.requires, mail.count) == (
        "email",
        7,
        "send",
        "",
        (),
        2,
    )
    assert (other.key, other.requires, other.count) == ("anna", ("gpu", "ssd"), 1)


async def test_the_oldest_of_a_lane_waits_since_it_was_due(store: Store) -> None:
    plain = new()
    late = new("email", options=TaskOptions(delay=50.0), due_at=NOW + 50.0)
    await accept(store, plain, late)
    await store.run(operations.ripen, RULES, 10, NOW + 60.0)
    assert await store.run(operations.oldest, [plain.lane, late.lane, 17]) == {plain.lane: NOW, late.lane: NOW + 50.0}


async def test_a_task_that_comes_back_is_in_its_lane_again(store: Store) -> None:
    task = of("anna")
    await accept(store, task)
    (out,) = await claim(store, "default", 1)
    assert (out.lane, out.key) == (task.lane, "anna")
    await apply(store, (out.assignment.id, Returned(out.assignment.lease)))
    stored = await load(store, task.message.id)
    assert (stored.lane, stored.key) == (task.lane, "anna")
    assert [lane.number for lane in await store.run(lanes.waiting)] == [task.lane]


async def test_what_is_unfinished_is_counted_by_queue_and_state(store: Store) -> None:
    await accept(store, new(), new(), new("email"), new("email", due_at=NOW + 5))
    await claim(store, "default", 1)
    counted = await store.run(operations.count_unfinished)
    assert counted == {
        ("default", "queued"): 1,
        ("default", "dispatched"): 1,
        ("email", "queued"): 1,
        ("email", "scheduled"): 1,
    }


# --- rearranging ---------------------------------------------------------------------------------------------------


async def rearrange(store: Store, where: Filter, **more: Any) -> RearrangedPage:
    wanted: dict[str, Any] = {"owner": None, "queue": None, "priority": None, "after": None, "limit": 100} | more
    return await store.run(
        operations.rearrange,
        where,
        wanted["owner"],
        wanted["queue"],
        wanted["priority"],
        wanted["after"],
        wanted["limit"],
        lane_number,
        "root",
        NOW + 5,
    )


async def test_what_waits_is_moved_and_what_is_out_or_over_is_not(store: Store) -> None:
    queued, later, out = of("anna"), of("anna", due_at=NOW + 50), new(placement=placements(1)[0])
    await accept(store, queued, later, out)
    page = await rearrange(store, Filter(queue="default"), queue="bulk")
    assert (page.ids, page.next) == ([later.message.id, queued.message.id], None)
    for task in (queued, later):
        stored = await load(store, task.message.id)
        assert (stored.queue, stored.lane) == ("bulk", lane_number("bulk", 4, "add", "anna"))
    assert (await load(store, out.message.id)).queue == "default"
    assert [each.assignment.id for each in await claim(store, "bulk", 5)] == [queued.message.id]
    assert await claim(store, "default", 5, first=6) == []


async def test_a_new_priority_changes_the_turn(store: Store) -> None:
    slow, quick = new(), new(task="other")
    await accept(store, slow, quick)
    await rearrange(store, Filter(ids=[quick.message.id]), priority=9)
    assert [each.assignment.id for each in await claim(store, "default", 2)] == [quick.message.id, slow.message.id]


async def test_what_is_so_already_is_named_and_not_written_down(store: Store) -> None:
    task = new()
    await accept(store, task)
    page = await rearrange(store, Filter(ids=[task.message.id]), queue="default", priority=4)
    assert (page.ids, page.moved, page.change) == ([task.message.id], [], None)
    assert await store.run(operations.list_changes, None, 10) == ([], None)


async def test_only_the_asker_s_own_tasks_are_moved(store: Store) -> None:
    mine, foreign = new(), new(owner="bob")
    await accept(store, mine, foreign)
    page = await rearrange(store, Filter(), owner="anna", queue="bulk")
    assert page.ids == [mine.message.id]
    page = await rearrange(store, Filter(ids=[foreign.message.id]), owner="anna", queue="bulk")
    assert page.ids == []


async def test_a_walk_moves_all_once_page_by_page(store: Store) -> None:
    batch = [new() for _ in range(25)]
    await accept(store, *batch)
    moved, after = [], None
    for _ in range(10):
        page = await rearrange(store, Filter(queue="default"), queue="bulk", after=after, limit=10)
        moved += page.ids
        after = page.next
        if after is None:
            break
    assert moved == [task.message.id for task in reversed(batch)]
    listed, _ = await store.run(operations.list_changes, None, 10)
    assert [(each.what, each.name, each.detail) for each in listed] == [
        ("move", "bulk", "5 tasks of default to bulk"),
        ("move", "bulk", "10 tasks of default to bulk"),
        ("move", "bulk", "10 tasks of default to bulk"),
    ]


async def test_a_moved_task_that_is_submitted_again_is_still_the_same(store: Store) -> None:
    """A client that did not hear the confirm says again what it said, and knows nothing of the move."""
    task = new()
    await accept(store, task)
    await rearrange(store, Filter(), queue="bulk", priority=9)
    await rearrange(store, Filter(), queue="email")
    accepted = await accept_carefully(store, new(id=task.message.id))
    assert ([each.id for each in accepted.known], accepted.conflicts) == ([task.message.id], [])
    assert await parked_rows(store) == []
    other = await accept_carefully(store, new("email", 9, id=task.message.id))
    assert len(other.conflicts) == 1


async def test_a_task_that_was_taken_meanwhile_is_not_moved(store: Store) -> None:
    task = new()
    await accept(store, task)
    stored = await load(store, task.message.id)
    await claim(store, "default", 1)
    with pytest.raises(StoreUnavailable):
        await store.run(moves.move, [Moved(stored, "bulk", 4, 1)])
    after = await load(store, task.message.id)
    assert (after.queue, after.task.state) == ("default", State.DISPATCHED)


# --- quotas and their record ---------------------------------------------------------------------------------------


async def test_what_is_left_out_of_a_change_stays_and_null_takes_away(store: Store) -> None:
    first = SetQuota(scope=Scope.QUEUE, name="email", rate=Rate(100, 1.0), concurrency=5, weight=3.0)
    changed = await store.run(operations.set_quota, first, "root", NOW)
    email = Quota(scope=Scope.QUEUE, name="email", rate=Rate(100, 1.0), concurrency=5, weight=3.0)
    assert changed.quota == email
    second = SetQuota(scope=Scope.QUEUE, name="email", paused=True, concurrency=None)
    changed = await store.run(operations.set_quota, second, "eve", NOW + 1)
    now = Quota(scope=Scope.QUEUE, name="email", rate=Rate(100, 1.0), weight=3.0, paused=True)
    assert changed.quota == now
    assert await store.run(operations.list_quotas) == [now]
    assert await store.run(operations.list_quotas, Scope.KEY) == []
    listed, following = await store.run(operations.list_changes, None, 10)
    assert following is None
    assert listed == [
        Change(NOW + 1, "eve", "quota", "email", "queue: concurrency 5 -> none, paused no -> yes"),
        Change(NOW, "root", "quota", "email", "queue: weight 1 -> 3, rate none -> 100/s, concurrency none -> 5"),
    ]


async def test_a_change_that_changes_nothing_is_not_written_down(store: Store) -> None:
    ask = SetQuota(scope=Scope.KEY, name="anna", weight=1.0, rate=UNSET)
    assert (await store.run(operations.set_quota, ask, "root", NOW)).change is None
    assert await store.run(operations.list_quotas) == []
    assert await store.run(operations.list_changes, None, 10) == ([], None)


async def test_a_quota_that_says_nothing_any_more_is_forgotten(store: Store) -> None:
    for paused in (True, False):
        await store.run(operations.set_quota, SetQuota(scope=Scope.TASK, name="add", paused=paused), "root", NOW)
    assert await store.run(operations.list_quotas) == []


async def test_changes_come_in_pages_and_old_ones_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "KEPT", 5)
    for n in range(8):
        await store.run(operations.record_change, Change(NOW + n, "root", "command", f"worker-{n}", "ping"))
    first, after = await store.run(operations.list_changes, None, 3)
    second, end = await store.run(operations.list_changes, after, 3)
    assert [each.name for each in (*first, *second)] == [f"worker-{n}" for n in (7, 6, 5, 4, 3)]
    assert end is None


# --- what rates have used up ---------------------------------------------------------------------------------------


async def test_what_is_dispatched_under_a_rate_is_remembered_for_its_span(store: Store) -> None:
    await accept(store, *(of("anna") for _ in range(5)), of("bob"))
    spans = {("queue", "default"): 10.0, ("key", "anna"): 1.0, ("task", "other"): 1.0}
    turn = [Turn([of("anna").lane], placements(3))]
    await store.run(operations.claim, turn, spans, RULES, 0, NOW)
    turn = [Turn([of("anna").lane, of("bob").lane], placements(3, first=4))]
    await store.run(operations.claim, turn, spans, RULES, 0, NOW + 2)
    used = await store.run(quotas.used)
    assert {(each.scope, each.name, each.at): each.count for each in used} == {
        (Scope.QUEUE, "default", NOW): 3,
        (Scope.QUEUE, "default", NOW + 2): 3,
        (Scope.KEY, "anna", NOW + 2): 2,
    }


async def test_what_goes_at_once_counts_for_a_rate_too(store: Store) -> None:
    at_once, later = of("anna", placement=placements(1)[0]), of("anna")
    await store.run(operations.accept, [at_once, later], [], 0, NOW, {("key", "anna"): 1.0})
    assert [(each.name, each.count) for each in await store.run(quotas.used)] == [("anna", 1)]


async def test_however_often_something_is_dispatched_little_is_remembered(store: Store) -> None:
    def dispatch(connection: Connection) -> int:
        for at in range(5000):
            quotas.use(connection, {("queue", "q"): 1.0}, {("queue", "q"): 1}, NOW + at / 1000)
        return int(connection.execute(text("SELECT count(*) FROM recent")).scalar_one())

    assert await store.run(dispatch) <= quotas.SLOTS + 2
    remembered = [each for each in await store.run(quotas.used) if each.at > NOW + 4]
    assert sum(each.count for each in remembered) >= 999
    assert max(each.at for each in remembered) >= NOW + 4.999

"""Dead letters on a real broker: listed, shown, replayed once, purged; everybody's only for operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from common.ids import new_task_id
from common.questions import AskKind, Dead, DeadLetter, DeadVerb, Filter
from common.states import State
from deploy.local import Broker
from scheduler_service.storage import search
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, fail, succeed
from tests.support.waiting import eventually


@pytest.fixture
def worker(broker: Broker, namespace: str) -> StandInWorker:
    """Enter it when it is to work; it fails everything."""
    return StandInWorker(broker.url, namespace, fail)


async def pages(producer: Producer, verb: DeadVerb, *, limit: int = 100, **more: Any) -> list[DeadLetter]:
    """The dead letters of all pages."""
    letters: list[DeadLetter] = []
    after = None
    while True:
        page = await producer.request(Dead(verb, after=after, limit=limit, **more))
        letters += page.letters
        after = page.next
        if after is None:
            return letters


async def test_failed_tasks_and_parked_messages_are_listed_and_shown_with_what_came(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        first, second = await producer.submit({"args": [1, "ü"], "options": {"key": "acme"}}, {"task": "other"})
        await producer.results([first, second])
        await producer.send(b"no JSON")
        await eventually(lambda: scheduler.parked)
        letters = await pages(producer, DeadVerb.LIST)
        assert [(each.id, each.reason, each.task, each.payload) for each in letters] == [
            (second, "exception", "other", ""),
            (first, "exception", "add", ""),
            ("", "undecodable", "", ""),
        ]
        assert letters[2].origin == "submit"
        shown = await pages(producer, DeadVerb.SHOW, where=Filter(key="acme"))
        assert [each.id for each in shown] == [first]
        assert json.loads(shown[0].payload)["args"] == [1, "ü"]
        (message,) = await pages(producer, DeadVerb.SHOW, parked=[letters[2].parked])
        assert message.payload == "no JSON"
        assert [each.id for each in await pages(producer, DeadVerb.LIST, reason="timeout")] == []


async def test_a_replay_is_a_new_task_and_doing_it_twice_changes_nothing(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SCAN", 7)
    async with worker:
        options = {"labels": {"batch": "7"}, "idempotency_key": "k", "delay": 0.01}
        ids = await producer.submit({"options": options}, *({"args": [n, 1]} for n in range(29)))
        await producer.results(ids)
        worker.decide = succeed
        letters = await pages(producer, DeadVerb.REPLAY, limit=10)
        assert {each.id for each in letters} == set(ids)
        again = {each.id: each.replayed_as for each in letters}
        assert len(set(again.values())) == 30
        await producer.ask(AskKind.WAIT, list(again.values()))
        results = await producer.results(list(again.values()))
        assert {result.state for result in results} == {"succeeded"}
        status = await producer.status(again[ids[0]])
        assert (status["replay_of"], status["labels"]) == (ids[0], {"batch": "7"})
        assert (await scheduler.task(ids[0])).state is State.FAILED
        seen = len(worker.seen)
        twice = await pages(producer, DeadVerb.REPLAY)
        assert {each.id: each.replayed_as for each in twice} == again
        (id_,) = await producer.submit()
        await producer.result(id_)
        assert len(worker.seen) == seen + 1
        assert scheduler.scheduler._dispatcher.backlog == {}


async def test_what_was_refused_is_not_replayed(scheduler: RunningScheduler, producer: Producer) -> None:
    (id_,) = await producer.submit({"args": ["x" * 300_000]})
    await producer.result(id_)
    (letter, message) = await pages(producer, DeadVerb.REPLAY)
    assert (letter.id, letter.reason, letter.replayed_as) == (id_, "refused", "")
    assert (message.id, message.reason, message.parked > 0) == (id_, "too_large", True)


async def test_a_purge_forgets_what_fits_and_nothing_else(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        ids = await producer.submit({"task": "bad"}, {"task": "bad"}, {"task": "other"})
        await producer.results(ids)
        worker.decide = succeed
        (fine,) = await producer.submit({"task": "bad"})
        await producer.result(fine)
        purged = await pages(producer, DeadVerb.PURGE, where=Filter(task="bad"))
        assert {each.id for each in purged} == set(ids[:2])
        assert [each.id for each in await pages(producer, DeadVerb.LIST)] == [ids[2]]
        assert (await producer.status(fine))["state"] == "succeeded"

        def attempts(connection: Connection) -> int:
            count: int = connection.execute(text("SELECT count(*) FROM attempts")).scalar_one()
            return count

        assert await scheduler.scheduler.store.run(attempts) == 1


@pytest.mark.parametrize("operators", [(), ("guest",)])
async def test_others_dead_letters_are_for_operators(
    broker: Broker, namespace: str, tmp_path: Path, quick_rescue: None, worker: StandInWorker, operators: tuple[str]
) -> None:
    async with (
        Producer(broker.url, namespace) as producer,
        RunningScheduler(
            broker.url, namespace, tmp_path, operators=tuple(producer.connection.user for _ in operators)
        ) as scheduler,
        worker,
    ):
        (id_,) = await producer.submit()
        await producer.result(id_)
        await producer.send(b"?", user_id=None)
        await eventually(lambda: scheduler.parked)
        await scheduler.executed("UPDATE tasks SET owner = 'bob'")
        letters = await pages(producer, DeadVerb.LIST)
        assert len(letters) == (2 if operators else 0)
        replayed = [each.replayed_as for each in await pages(producer, DeadVerb.REPLAY) if each.id]
        assert len(replayed) == len(operators)
        assert (await producer.cancel(id_)) == ({id_: "failed"} if operators else {})


@pytest.mark.parametrize(
    "question",
    [
        {"type": "warren.dead.v1", "body": b'{"verb":"list","after":"x1"}'},
        {"type": "warren.dead.v1", "body": b'{"verb":"list","parked":[99999999999999999999999]}'},
        {"type": "warren.list.v1", "body": b'{"where":{},"after":99999999999999999999999}'},
        {"type": "warren.cancel.v1", "body": b'{"where":{"ids":["no id"]}}'},
        {"type": "warren.unknown.v1", "body": b"{}"},
    ],
    ids=lambda question: str(question["body"]),
)
async def test_a_bad_question_is_parked_and_stops_no_other(
    scheduler: RunningScheduler, producer: Producer, question: dict[str, Any]
) -> None:
    await producer.send(question["body"], queue="request", type=question["type"])
    await eventually(lambda: scheduler.parked["request", "undecodable"])
    missing = new_task_id()
    assert await producer.cancel(missing) == {}


@pytest.mark.parametrize("verb", [DeadVerb.REPLAY, DeadVerb.PURGE])
async def test_what_fails_after_the_first_question_is_not_meant(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker, verb: DeadVerb
) -> None:
    """Each question may come twice; replays that have failed by then are not replayed, nor purged unseen."""
    async with worker:
        (old,) = await producer.submit()
        await producer.result(old)
        start = await producer.request(Dead(verb))
        assert start.letters == []
        (new,) = await producer.submit()
        await producer.result(new)
        for after in (None, start.next):
            await producer.request(Dead(verb, after=after))
        (done,) = [each for each in await pages(producer, DeadVerb.LIST) if each.id == new]
        assert done.replayed_as == ""

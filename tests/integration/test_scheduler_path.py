"""The scheduler on a real broker: from a submission to what its owner is told."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from common.ids import new_task_id
from common.questions import AskKind, Statuses
from common.states import State
from common.wire import ErrorKind, Told
from deploy.local import Broker
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_worker import StandInWorker, fail, hold
from tests.support.waiting import eventually


@pytest.fixture
def worker(broker: Broker, namespace: str) -> StandInWorker:
    """Enter it when it is to work."""
    return StandInWorker(broker.url, namespace)


async def test_a_task_is_run_and_its_result_is_told(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        (id_,) = await producer.submit({"args": [2, 3]})
        result = await producer.result(id_)
        assert (result.state, bytes(result.result)) == ("succeeded", b"5")
        (assignment,) = worker.seen
        assert (assignment.id, assignment.task, assignment.attempt) == (id_, "add", 1)
        assert (await scheduler.task(id_)).state is State.SUCCEEDED
        assert producer.times == {id_: 1}
        assert scheduler.ready


async def test_a_task_that_was_there_before_any_worker_waits_and_says_why(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    (id_,) = await producer.submit({"queue": "email", "task": "mail.send", "priority": 9})
    status = await producer.status(id_)
    assert (status["state"], status["queue"], status["task"], status["priority"]) == ("queued", "email", "mail.send", 9)
    assert status["note"] == "no live worker serves the queue 'email'"
    assert status["submitted_at"] > 0
    async with worker:
        assert (await producer.status(id_))["state"] == "queued"
        async with StandInWorker(broker.url, namespace, queues=["email"], functions=["mail.send"]):
            assert (await producer.result(id_)).state == "succeeded"


async def test_a_status_says_running_and_where(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = hold
    async with worker:
        (id_,) = await producer.submit()
        await eventually(lambda: worker.holding)
        await worker.beat()
        status = await producer.status(id_)
        assert (status["state"], status["worker"], status["attempt"]) == ("running", worker.name, 1)
        await worker.finish()
        await producer.result(id_)
        status = await producer.status(id_)
        assert (status["state"], status["worker"]) == ("succeeded", worker.name)
        assert status["finished_at"] >= status["dispatched_at"] >= status["submitted_at"]


async def test_a_status_says_when_no_worker_knows_the_function(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = hold
    async with worker:
        (id_,) = await producer.submit({"task": "mystery"})
        await eventually(lambda: worker.holding)
        worker.holding.clear()
        await worker.beat()
        assert "'mystery'" in (await producer.status(id_))["note"]


async def test_a_thousand_tasks_in_one_message(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        ids = await producer.submit(*({"args": [number]} for number in range(1000)))
        results = await producer.results(ids, timeout=30.0)
        assert [bytes(result.result) for result in results] == [str(number).encode() for number in range(1000)]
        assert len(worker.seen) == 1000
        assert len(worker.bundles) < 1000


async def test_a_failure_is_told_with_its_error(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = fail
    async with worker:
        (id_,) = await producer.submit()
        result = await producer.result(id_)
        assert result.state == "failed"
        assert result.error is not None
        assert (result.error.kind, result.error.type, result.error.message) == (ErrorKind.EXCEPTION, "Boom", "add")
        status = await producer.status(id_)
        assert status["error"] == result.error


async def test_the_same_submission_again_is_the_same_task_and_its_result_is_told_again(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with worker:
        id_ = new_task_id()
        for _ in range(2):
            await producer.submit({"id": id_, "args": [1, 1]})
        await producer.result(id_)
        before = producer.times[id_]
        await producer.submit({"id": id_, "args": [1, 1]})
        await eventually(lambda: producer.times[id_] > before)
        assert len(worker.seen) == 1
        assert scheduler.parked == {}


async def test_the_same_id_with_other_content_is_parked_and_the_first_one_stays(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    id_ = new_task_id()
    await producer.submit({"id": id_, "args": [1, 1]})
    await producer.submit({"id": id_, "args": [9, 9]})
    await eventually(lambda: scheduler.parked["submit", "conflict"])
    refused = await producer.result(id_)
    assert refused.error is not None
    assert (refused.state, refused.error.kind, refused.error.type) == ("failed", ErrorKind.REFUSED, "Conflict")
    async with worker:
        await eventually(lambda: bytes(producer.told[id_].result) == b"2")
        (row,) = await scheduler.rows()
        assert (row.origin, row.reason, row.owner) == ("submit", "conflict", producer.connection.user)
        assert b"9" in row.payload


async def test_who_asks_is_told_what_is_there_and_from_then_on_the_rest(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.decide = lambda assignment: hold(assignment) if assignment.task == "slow" else fail(assignment)
    async with worker:
        quick, slow = await producer.submit({}, {"task": "slow"})
        await producer.result(quick)
        await eventually(lambda: worker.holding)
        missing = new_task_id()
        async with Producer(broker.url, namespace) as other:
            answer = await other.ask(AskKind.WAIT, [quick, slow, missing])
            assert isinstance(answer, Told)
            assert answer.unknown == [missing]
            assert (await other.result(quick)).state == "failed"
            assert slow not in other.told
            await worker.finish()
            assert (await other.result(slow)).state == "succeeded"
        assert slow not in producer.told


async def test_an_unknown_id_is_said_to_be_unknown(scheduler: RunningScheduler, producer: Producer) -> None:
    missing = new_task_id()
    for kind in AskKind:
        answer = await producer.ask(kind, [missing])
        assert answer.unknown == [missing]
        assert (answer.statuses if isinstance(answer, Statuses) else answer.results) == []


async def test_priority_decides_among_those_that_wait(
    scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    worker.slots = 1
    priorities = [4, 0, 9, 4, 9]
    ids = await producer.submit(*({"priority": priority} for priority in priorities))
    assert (await producer.status(ids[-1]))["state"] == "queued"
    async with worker:
        await producer.results(ids)
        order = [assignment.id for assignment in worker.seen]
        assert order == [ids[at] for at in (2, 4, 0, 3, 1)]


async def test_a_client_that_is_gone_holds_nobody_up(
    broker: Broker, namespace: str, scheduler: RunningScheduler, producer: Producer, worker: StandInWorker
) -> None:
    async with Producer(broker.url, namespace) as gone:
        (lost,) = await gone.submit()
    async with worker:
        (id_,) = await producer.submit()
        assert (await producer.result(id_)).state == "succeeded"
        answer = await producer.ask(AskKind.WAIT, [lost])
        assert answer.unknown == []
        assert (await producer.result(lost)).state == "succeeded"


PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


@pytest.mark.parametrize("number", [0, 1], ids=["ten lines", "with its result"])
async def test_the_producers_in_the_protocol_page_run(
    broker: Broker, namespace: str, scheduler: RunningScheduler, worker: StandInWorker, number: int
) -> None:
    user = scheduler.scheduler._connections[0].user
    program = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]
    here = {
        "amqp://guest:guest@localhost:5672/": broker.url,
        '"warren.submit", ': f'"{namespace}.submit", ',
        "warren.client.guest.": f"{namespace}.client.{user}.",
        'user_id="guest"': f'user_id="{user}"',
    }
    for shown, ours in here.items():
        program = program.replace(shown, ours)
    async with worker:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        said, _ = await asyncio.wait_for(process.communicate(), 30.0)
        assert process.returncode == 0
        await eventually(lambda: worker.seen)
        assert said == (b"", b"succeeded 5\n")[number]

"""What operators see and do with both clients, on a real broker, with a stand-in for the scheduler."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from common.administration import Change, QueueReport, WorkerReport, WorkerState
from common.client.aio import AsyncClient
from common.client.sync import Client
from common.errors import InvalidFilter, InvalidQuota, NotAllowed, ResultTimeout
from common.quotas import Quota, Rate, Scope
from common.tasks import call
from deploy.local import Broker
from tests.integration.test_client_questions import Either
from tests.support.stand_in import StandIn, eventually


@pytest.fixture
def scheduler(broker: Broker, namespace: str) -> Iterator[StandIn]:
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


@pytest_asyncio.fixture(params=["sync", "async"])
async def either(request: pytest.FixtureRequest, broker: Broker, namespace: str) -> AsyncIterator[Either]:
    if request.param == "async":
        async with AsyncClient(broker.url, namespace=namespace, publish_timeout=10) as client:
            yield Either(client)
    else:
        with Client(broker.url, namespace=namespace, publish_timeout=10) as sync_client:
            yield Either(sync_client)


async def test_queues_and_workers_are_described(scheduler: StandIn, either: Either) -> None:
    scheduler.administered.queues = [QueueReport("default", 3, drain_seconds=1.5), QueueReport("email", note="paused")]
    scheduler.administered.workers = [WorkerReport("w1", WorkerState.ALIVE, 0.3, slots=5)]
    client = either.client

    assert await either.do(client.queues) == scheduler.administered.queues
    assert [queue.name for queue in await either.do(client.queues, "email", "other")] == ["email"]
    assert await either.do(client.workers) == scheduler.administered.workers
    with pytest.raises(InvalidFilter, match="queues cannot be asked about like this"):
        await either.do(client.queues, "no such name")


async def test_what_is_not_said_of_a_quota_stays(scheduler: StandIn, either: Either) -> None:
    set_quota = either.client.set_quota
    first = await either.do(set_quota, "queue", "email", weight=3, rate="90/m", ageing=timedelta(minutes=1))
    assert first == Quota(scope=Scope.QUEUE, name="email", weight=3.0, rate=Rate(90, 60.0), ageing=60.0)
    second = await either.do(set_quota, "queue", "email", rate=None, concurrency=20)
    assert second == Quota(scope=Scope.QUEUE, name="email", weight=3.0, concurrency=20, ageing=60.0)
    assert (await either.do(either.client.pause, "email")).paused
    assert not (await either.do(either.client.resume, "email")).paused
    await either.do(set_quota, "key", "anna", rate=Rate(5, 1.0))
    assert [quota.name for quota in await either.do(either.client.quotas)] == ["email", "anna"]
    assert [quota.name for quota in await either.do(either.client.quotas, "key")] == ["anna"]


@pytest.mark.parametrize(
    "words",
    [{"weight": 0}, {"weight": "heavy"}, {"rate": "fast"}, {"rate": "0/s"}, {"concurrency": 0}, {"ageing": -1}, {}],
)
async def test_a_quota_that_cannot_be_is_not_asked_for(
    scheduler: StandIn, either: Either, words: dict[str, Any]
) -> None:
    with pytest.raises(InvalidQuota):
        await either.do(either.client.set_quota, "queue", "email", **words)
    with pytest.raises(InvalidQuota, match="name"):
        await either.do(either.client.set_quota, "key", "bert\n", concurrency=3)
    with pytest.raises(InvalidQuota, match="there are no quotas of a 'worker'"):
        await either.do(either.client.set_quota, "worker", "w1", weight=1)
    assert not scheduler.administered.quotas


async def test_who_is_no_operator_is_told_so(scheduler: StandIn, either: Either) -> None:
    scheduler.administered.forbidden = True
    scheduler.administered.answers = {"w1": b"{}"}
    for verb, words in ((either.client.pause, ("email",)), (either.client.command, ("drain",))):
        with pytest.raises(NotAllowed, match="only operators may do this"):
            await either.do(verb, *words)
    scheduler.administered.forbidden = False
    with pytest.raises(InvalidQuota, match="a task function has no weight"):
        await either.do(either.client.set_quota, "task", "add", weight=2)


async def test_what_waits_is_moved_page_by_page(scheduler: StandIn, either: Either) -> None:
    scheduler.page = 7
    calls = [call("never") for _ in range(20)]
    handles = await either.do(either.client.options(queue="mail").submit_many, calls)
    other = await either.submit("never", queue="other")
    pages: list[int] = []

    done = await either.do(
        either.client.move, "bulk", queue="mail", state="queued", on_page=lambda page: pages.append(len(page))
    )
    assert (done, pages) == (20, [7, 7, 6])
    assert {scheduler.tasks[handle.id].queue for handle in handles} == {"bulk"}
    assert scheduler.tasks[other.id].queue == "other"
    assert await either.do(either.client.reprioritise, 9, ids=[other.id]) == 1
    assert scheduler.tasks[other.id].priority == 9


async def test_what_cannot_be_moved_is_not_asked_for(scheduler: StandIn, either: Either) -> None:
    client = either.client
    for verb, words, message in (
        (client.move, {"to": "x"}, "say which"),
        (client.move, {"to": "x", "queue": "y", "state": "failed"}, "only tasks that are scheduled or queued"),
        (client.move, {"to": "no such name", "queue": "y"}, "cannot be asked about like this"),
        (client.move, {"to": "nowhere", "queue": "y"}, "no room for one more queue"),
        (client.reprioritise, {"priority": 10, "queue": "y"}, "cannot be asked about like this"),
    ):
        with pytest.raises(InvalidFilter, match=message):
            await either.do(verb, **words)


async def test_a_queue_is_purged(scheduler: StandIn, either: Either) -> None:
    handles = [await either.submit("never", queue="mail") for _ in range(3)]
    later = await either.submit("add", 1, queue="mail", delay=60)
    other = await either.submit("never")
    assert await either.do(either.client.purge, "mail") == 4
    assert scheduler.results.keys() == {later.id, *(handle.id for handle in handles)}
    assert (await either.do(other.status)).state == "queued"


async def test_a_command_is_given_once_and_asked_about_until_it_is_over(scheduler: StandIn, either: Either) -> None:
    scheduler.administered.answers = {"host-1": b'{"pid":1}', "host-2": None, "other": b'{"pid":3}'}
    given = await either.do(either.client.command, "ping")
    assert ([answer.worker for answer in given.answers], given.missing) == (["host-1", "other"], ["host-2"])
    assert msgspec.json.decode(given.answers[0].data) == {"pid": 1}
    (command,) = scheduler.administered.commands.values()
    assert scheduler.administered.asked[command.token] == 3

    await either.do(either.client.command, "slots", "host-1", "oth", slots=8, within=1.5)
    last = list(scheduler.administered.commands.values())[-1]
    assert (last.workers, last.slots, last.within) == (["host-1", "oth"], 8, 1.5)
    await either.do(either.client.command, "log-level", level="debug")
    assert list(scheduler.administered.commands.values())[-1].level == "DEBUG"


async def test_a_command_that_cannot_be_is_not_given(scheduler: StandIn, either: Either) -> None:
    scheduler.administered.answers = {"host-1": b"{}"}
    for words, more, message in (
        (("dance",), {}, "they can be told to ping, stats, stacks"),
        (("probe",), {}, "cannot be told to 'probe'"),
        (("slots",), {}, "`slots` goes with"),
        (("ping",), {"slots": 3}, "`slots` goes with"),
        (("log-level",), {}, "`level` goes with"),
        (("ping",), {"within": 31}, "cannot be asked about like this"),
        (("ping", "elsewhere"), {}, "no live worker's id begins"),
    ):
        with pytest.raises(InvalidFilter, match=message):
            await either.do(either.client.command, *words, **more)
    assert not scheduler.administered.commands


async def test_changes_are_listed_page_by_page(scheduler: StandIn, either: Either) -> None:
    scheduler.page = 4
    changes = scheduler.administered.changes = [Change(float(at), "anna", "quota", "email") for at in range(10)]
    assert await either.all(either.client.changes) == changes
    assert await either.all(either.client.changes, limit=5) == changes[:5]
    with pytest.raises(InvalidFilter):
        await either.all(either.client.changes, limit=0)


async def test_a_lost_question_is_asked_again(
    scheduler: StandIn, either: Either, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.client.requests.ANSWER", 0.3)
    scheduler.silent = 2
    await either.do(either.client.queues)
    scheduler.silent, scheduler.administered.answers = 1, {"host-1": b"{}"}
    await either.do(either.client.command, "ping")
    eventually(lambda: scheduler.silent == 0)


async def test_no_question_waits_for_ever(either: Either) -> None:
    client = either.client
    for verb, words in (
        (client.queues, {}), (client.workers, {}), (client.quotas, {}), (client.pause, {"queue": "q"}),
        (client.move, {"to": "q", "queue": "p"}), (client.purge, {"queue": "q"}), (client.command, {"verb": "ping"}),
    ):  # fmt: skip
        with pytest.raises(ResultTimeout):
            await either.do(partial(verb, timeout=0.1, **words))
    with pytest.raises(ResultTimeout):
        await either.all(client.changes, timeout=0.1)

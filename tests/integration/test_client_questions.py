"""What both clients ask about their tasks, on a real broker, with a stand-in for the scheduler."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from common.client.aio import AsyncClient
from common.client.sync import Client
from common.errors import ClientClosed, InvalidFilter, ResultTimeout, TaskCancelled, UnknownTask
from common.ids import new_task_id
from common.questions import DeadLetter, Progress, TaskStatus
from common.tasks import call
from deploy.local import Broker
from tests.support.stand_in import StandIn, eventually

Question = Callable[[Any, Any], Callable[[], Any]]


class Either:
    """One of the two clients, with verbs that can be awaited in any case."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def do(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.client, Client):
            return await asyncio.to_thread(verb, *args, **kwargs)
        return await verb(*args, **kwargs)

    async def all(self, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(self.client, Client):
            return await asyncio.to_thread(lambda: list(verb(*args, **kwargs)))
        return [item async for item in verb(*args, **kwargs)]

    async def submit(self, name: str, *args: Any, **options: Any) -> Any:
        return await self.do(self.client.options(**options).submit, name, *args)


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


async def test_a_task_is_cancelled_and_its_waiter_learns_it(scheduler: StandIn, either: Either) -> None:
    handle = await either.submit("never")

    assert await either.do(handle.cancel) == "cancelled"
    with pytest.raises(TaskCancelled):
        await either.do(handle.result, 5)
    assert await either.do(handle.cancel) == "cancelled", "a second time changes nothing"


async def test_an_outcome_that_came_first_is_told_to_who_cancels(scheduler: StandIn, either: Either) -> None:
    handle = await either.submit("add", 1)
    await either.do(handle.result, 5)

    assert await either.do(handle.cancel) == "succeeded"
    with pytest.raises(UnknownTask):
        await either.do(either.client.handle(new_task_id()).cancel, 5)


async def test_many_are_cancelled_by_what_they_have_in_common(scheduler: StandIn, either: Either) -> None:
    scheduler.page = 7
    ours = [await either.submit("never", labels={"job": "1"}) for _ in range(20)]
    other = await either.submit("never", labels={"job": "2"})
    pages: list[int] = []
    states = await either.do(
        either.client.cancel,
        labels={"job": "1"},
        state=["queued", "scheduled"],
        on_page=lambda page: pages.append(len(page)),
    )

    assert states == dict.fromkeys((handle.id for handle in ours), "cancelled")
    assert pages == [7, 7, 6]
    assert (await either.do(other.status)).state == "queued"


async def test_ids_are_cancelled_together_and_unknown_ones_named(scheduler: StandIn, either: Either) -> None:
    scheduler.page = 2
    never, done = await either.submit("never"), await either.submit("add", 1)
    await either.do(done.result, 5)
    nobody = new_task_id()

    states = await either.do(either.client.cancel, ids=[never.id, done.id, nobody])
    assert states == {never.id: "cancelled", done.id: "succeeded", nobody: "unknown"}
    assert await either.do(either.client.cancel, ids=[]) == {}


async def test_nothing_said_cancels_nothing(scheduler: StandIn, either: Either) -> None:
    said: list[dict[str, Any]] = [{}, {"labels": {}}]
    for nothing in said:
        with pytest.raises(InvalidFilter, match="say which tasks"):
            await either.do(either.client.cancel, **nothing)
    with pytest.raises(InvalidFilter, match="there is no state 'sleeping'"):
        await either.do(either.client.cancel, state="sleeping")


async def test_tasks_are_listed_by_what_they_have_in_common(scheduler: StandIn, either: Either) -> None:
    calls = [call("never") if number % 2 else call("add", 1) for number in range(500)]
    handles = await either.do(either.client.options(queue="mail", key="anna").submit_many, calls)
    later = await either.submit("add", delay=3600, labels={"a": "1", "b": "2"})
    eventually(lambda: len(scheduler.tasks) == 501)
    list_ = either.client.tasks

    assert [task.id for task in await either.all(list_)] == [later.id, *(handle.id for handle in handles[::-1])]
    assert len(await either.all(list_, limit=201)) == 201
    assert {task.id for task in await either.all(list_, state="queued")} == {handle.id for handle in handles[1::2]}
    assert {task.id for task in await either.all(list_, task="add", queue="mail")} == {h.id for h in handles[::2]}
    assert len(await either.all(list_, key="anna", limit=3)) == 3
    assert [task.id for task in await either.all(list_, labels={"a": "1"})] == [later.id]
    assert await either.all(list_, until=timedelta(hours=1)) == []
    assert len(await either.all(list_, ids=[later.id, handles[0].id])) == 2
    (found,) = await either.all(list_, state="scheduled")
    assert (found.labels, found.due_at - found.submitted_at) == ({"a": "1", "b": "2"}, 3600.0)


async def test_progress_is_asked_for(scheduler: StandIn, either: Either) -> None:
    handle = await either.submit("never")
    assert await either.do(handle.progress) is None
    scheduler.progress[handle.id] = Progress(3, 10, "reading")
    assert await either.do(handle.progress) == Progress(3, 10, "reading")


async def test_updates_follow_a_task_to_its_end(scheduler: StandIn, either: Either) -> None:
    handle = await either.submit("never")
    seen: list[Any] = []

    async def follow() -> None:
        seen.extend(await either.all(collect))

    def next_step(update: Any) -> None:
        """Each thing that is seen makes the next one happen."""
        if isinstance(update, TaskStatus) and update.state == "queued":
            scheduler.progress[handle.id] = Progress(1, 2)
        elif isinstance(update, TaskStatus) and update.state == "running":
            scheduler.progress[handle.id] = Progress(2, 2)
        elif isinstance(update, Progress):
            scheduler.finish(handle.id, "done")

    def collect() -> Any:
        if isinstance(either.client, Client):
            return _stepping(handle.updates(10, interval=0.1), next_step)
        return _async_stepping(handle.updates(10, interval=0.1), next_step)

    await follow()
    assert [update.state if isinstance(update, TaskStatus) else update for update in seen] == [
        "queued",
        "running",
        Progress(2, 2),
        "succeeded",
    ]


def _stepping(updates: Iterator[Any], step: Callable[[Any], None]) -> Iterator[Any]:
    for update in updates:
        yield update
        step(update)


async def _async_stepping(updates: AsyncIterator[Any], step: Callable[[Any], None]) -> AsyncIterator[Any]:
    async for update in updates:
        yield update
        step(update)


async def test_updates_end_with_the_wait(scheduler: StandIn, either: Either) -> None:
    handle = await either.submit("never")
    with pytest.raises(ResultTimeout, match="is not finished"):
        await either.all(handle.updates, 0.3)


async def test_updates_of_an_unknown_task_are_an_error(scheduler: StandIn, either: Either) -> None:
    with pytest.raises(UnknownTask):
        await either.all(either.client.handle(new_task_id()).updates)


async def test_updates_of_what_is_gone_after_its_retention_end_with_the_outcome(
    scheduler: StandIn, either: Either
) -> None:
    handle = await either.submit("add", 1)
    await either.do(handle.result, 5)
    del scheduler.tasks[handle.id]
    assert [update.state for update in await either.all(handle.updates, 10)] == ["succeeded"]


async def test_dead_letters_are_listed_shown_replayed_and_purged(scheduler: StandIn, either: Either) -> None:
    handles = [await either.submit("fail", number, queue="mail") for number in range(3)]
    eventually(lambda: len(scheduler.results) == 3)
    scheduler.parked = [DeadLetter(parked=7, reason="undecodable", detail="$: not JSON")]
    dead = either.client.dead

    assert [letter.id or letter.parked for letter in await either.all(dead.list)] == [*(h.id for h in handles), 7]
    assert [letter.parked for letter in await either.all(dead.list, reason="undecodable")] == [7]
    assert len(await either.all(dead.list, queue="mail", limit=2)) == 2
    assert '"args":[1]' in (await either.do(dead.show, handles[1].id)).payload
    assert (await either.do(dead.show, 7)).reason == "undecodable"

    (one,) = await either.do(dead.replay, handles[0].id)
    again = {letter.id: letter.replayed_as for letter in await either.do(dead.replay, task="fail")}
    assert again[handles[0].id] == one.replayed_as
    assert len(set(again.values())) == 3
    assert len(await either.do(dead.purge, handles[2].id, 7)) == 2
    assert [letter.id for letter in await either.all(dead.list)] == [handles[0].id, handles[1].id]
    with pytest.raises(UnknownTask, match="no dead letter"):
        await either.do(dead.show, handles[2].id)


async def test_many_dead_letters_go_in_pages(scheduler: StandIn, either: Either) -> None:
    await either.do(either.client.submit_many, [call("fail")] * 450)
    eventually(lambda: len(scheduler.results) == 450)
    pages: list[int] = []
    done = await either.do(either.client.dead.replay, on_page=lambda page: pages.append(len(page)))

    assert (len(done), len({letter.replayed_as for letter in done}), sum(pages)) == (450, 450, 450)
    assert len(pages) > 1
    assert len(await either.do(either.client.dead.purge)) == 450
    assert await either.all(either.client.dead.list) == []


@pytest.mark.parametrize(
    "question",
    [
        lambda client, handle: handle.cancel,
        lambda client, handle: lambda: client.cancel(state="queued"),
        lambda client, handle: handle.progress,
        lambda client, handle: client.dead.replay,
    ],
)
async def test_a_lost_question_is_asked_again(
    scheduler: StandIn, either: Either, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("inquiries", "requests"):
        monkeypatch.setattr(f"common.client.{module}.ANSWER", 0.3)
    handle = await either.submit("never")
    scheduler.silent = 2
    await either.do(question(either.client, handle))
    assert scheduler.silent == 0


async def test_no_question_waits_for_ever(either: Either) -> None:
    handle = await either.submit("never")  # into the queue; there is no scheduler
    list_, cancel, dead = either.client.tasks, either.client.cancel, either.client.dead

    for waits in (
        either.do(handle.cancel, 0.1),
        either.do(handle.progress, 0.1),
        either.do(cancel, state="queued", timeout=0.1),
        either.do(dead.replay, timeout=0.1),
        either.all(list_, timeout=0.1),
        either.all(handle.updates, 0.1),
    ):
        with pytest.raises(ResultTimeout):
            await waits
    core = either.client._link.core if isinstance(either.client, Client) else either.client._flow.core
    open_ = (core.requests._open, core.cancels._open, core.inquiries._open)
    assert open_ == ({}, {}, {}), "a wait that is over leaves nothing"


async def test_closing_ends_every_question(either: Either) -> None:
    handle = await either.submit("never")
    verbs = [either.do(handle.cancel), either.do(either.client.cancel, state="queued"), either.all(handle.updates)]
    waits = [asyncio.ensure_future(verb) for verb in verbs]
    core = either.client._link.core if isinstance(either.client, Client) else either.client._flow.core
    await asyncio.to_thread(
        eventually, lambda: bool(core.requests._open and core.cancels._open and core.inquiries._open)
    )
    await either.do(either.client.close)

    got = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(error) for error in got] == [ClientClosed] * 3

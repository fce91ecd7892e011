"""Whose a task is that a task has submitted: its parent's owner's when a worker says so; nobody else's word counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.broker import Connection, Publisher
from common.ids import new_task_id
from common.questions import AskKind, Statuses
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Submission
from deploy.definitions import Role
from deploy.local import Broker
from tests.support.producer import Producer
from tests.support.running_scheduler import RunningScheduler
from tests.support.users import broker_users
from tests.support.waiting import eventually

ROLES = {"anna": Role.CLIENT, "bob": Role.CLIENT, "worker": Role.WORKER, "scheduler": Role.SCHEDULER}


@pytest.fixture
def users(broker: Broker, namespace: str) -> Iterator[dict[str, str]]:
    """Their URLs."""
    if broker.node is None:
        pytest.skip("users can be made on a private node only")
    with broker_users(broker.node, namespace, ROLES) as urls:
        yield urls


@pytest.fixture(params=[("worker",)])
async def world(
    request: pytest.FixtureRequest, users: dict[str, str], namespace: str, tmp_path: Path, quick_rescue: None
) -> AsyncIterator[World]:
    """A scheduler that trusts the users in the parameter, and two clients."""
    async with (
        RunningScheduler(users["scheduler"], namespace, tmp_path, worker_users=request.param) as scheduler,
        Producer(users["anna"], namespace) as anna,
        Producer(users["bob"], namespace) as bob,
    ):
        yield World(scheduler, {"anna": anna, "bob": bob}, users, namespace)


class World:
    """Who takes part."""

    def __init__(
        self, scheduler: RunningScheduler, clients: dict[str, Producer], users: dict[str, str], namespace: str
    ) -> None:
        self.scheduler = scheduler
        self.clients = clients
        self._users = users
        self._topology = Topology(namespace)
        self._count = 0

    async def submit(self, user: str, parent: str | None = None, **task: Any) -> str:
        """Submit a task as `user`, and wait until it is stored."""
        id_ = task.setdefault("id", new_task_id())
        options = task.pop("options", {}) | ({} if parent is None else {"parent": parent})
        await self.send(user, {"task": "add", "args": [2, 3], "options": options, **task})
        self._count += 1
        await eventually(lambda: self.scheduler.submitted >= self._count)
        return str(id_)

    async def send(self, user: str, task: dict[str, Any]) -> None:
        """Publish a submission as `user`, who need not be able to do anything else."""
        telemetry = Telemetry()
        url = self._users[user]
        connection = Connection(url, name=user, heartbeat=10, connect_timeout=10.0, telemetry=telemetry)
        await connection.start()
        try:
            await connection.ready(10.0)
            body = json.dumps({"tasks": [task]}).encode()
            exchange = self._topology.submit_exchange.name
            publisher = Publisher(connection, timeout=10.0, telemetry=telemetry)
            await publisher.publish(exchange, "submit", body, type=Submission.TYPE, user_id=user)
        finally:
            await connection.stop()

    async def seen_by(self, id_: str) -> dict[str, str]:
        """Who is answered about a task, with the parent that each is told."""
        seen: dict[str, str] = {}
        for name, client in self.clients.items():
            answer = await client.ask(AskKind.STATUS, [id_])
            assert isinstance(answer, Statuses)
            seen.update((name, status.parent) for status in answer.statuses)
        return seen


async def test_a_child_belongs_to_its_parent_s_owner_and_so_does_its_child(world: World) -> None:
    parent = await world.submit("anna")
    child = await world.submit("worker", parent)
    grandchild = await world.submit("worker", child)
    assert await world.seen_by(child) == {"anna": parent}
    assert await world.seen_by(grandchild) == {"anna": child}
    assert await world.clients["bob"].cancel(child) == {}
    assert await world.clients["anna"].cancel(child, grandchild) == dict.fromkeys((child, grandchild), "cancelled")


async def test_a_client_cannot_give_its_tasks_away_nor_put_them_into_other_hands(world: World) -> None:
    parent = await world.submit("anna")
    foisted = await world.submit("bob", parent)
    assert await world.seen_by(foisted) == {"bob": parent}
    assert await world.clients["anna"].cancel(foisted) == {}
    # Nor does it become anna's by way of a key of hers, or by being the parent of what a worker submits.
    keyed = await world.submit("anna", options={"idempotency_key": "k", "unique": "u"})
    for key in ("idempotency_key", "unique"):
        assert await world.seen_by(await world.submit("bob", keyed, options={key: "ku"[key == "unique"]})) == {
            "bob": keyed
        }
    assert await world.seen_by(await world.submit("worker", foisted)) == {"bob": foisted}


async def test_a_child_s_keys_are_those_of_its_owner(world: World) -> None:
    parent = await world.submit("anna")
    first = await world.submit("worker", parent, options={"unique": "u"})
    again = new_task_id()
    await world.send("anna", {"id": again, "task": "add", "args": [2, 3], "options": {"unique": "u"}})
    other = await world.submit("bob", options={"unique": "u"})
    assert (await world.clients["anna"].status(again))["alias_of"] == first
    assert (await world.clients["bob"].status(other))["alias_of"] == ""


async def test_a_child_that_is_submitted_twice_is_the_same_child(world: World) -> None:
    parent = await world.submit("anna")
    child = await world.submit("worker", parent)
    await world.send("worker", {"id": child, "task": "add", "args": [2, 3], "options": {"parent": parent}})
    await world.submit("anna")
    assert not world.scheduler.parked
    assert await world.seen_by(child) == {"anna": parent}


async def test_a_child_that_is_refused_fails_before_its_owner_s_eyes(world: World) -> None:
    parent = await world.submit("anna")
    child = await world.submit("worker", parent, args=["x" * 300_000])
    assert (await world.clients["anna"].status(child))["state"] == "failed"
    assert await world.seen_by(child) == {"anna": parent}


async def test_without_its_parent_it_stays_the_worker_s(world: World) -> None:
    child = await world.submit("worker", new_task_id())
    assert await world.seen_by(child) == {}


@pytest.mark.parametrize("world", [()], indirect=True)
async def test_other_users_are_not_believed_but_the_scheduler_itself_is(world: World) -> None:
    parent = await world.submit("anna")
    assert await world.seen_by(await world.submit("worker", parent)) == {}
    assert await world.seen_by(await world.submit("scheduler", parent)) == {"anna": parent}

"""The shipped users on a live broker: what each role needs works, and everything else is refused by the broker.

On the private node and, where a Docker engine runs, on the broker of the Compose file with its own configuration.
"""

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from common.broker.connection import Connection
from common.broker.declare import declare
from common.client.aio import AsyncClient
from common.errors import InvalidFilter, NotAllowed
from common.telemetry import Telemetry
from common.topology import Topology
from deploy.compose import Project
from deploy.credentials import VHOST, State, amqp_url, prepare, read_env, variable
from deploy.definitions import Role
from deploy.local import BrokerError, RabbitNode
from deploy.local.container import docker_runs
from tests import conftest
from tests.support.conditions import wait_until
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_scheduler import RunningWorker, worker_settings
from tests.support.waiting import eventually

TOPOLOGY = Topology("warren")
NOBODYS = "warren.client.somebody.4711"
CLIENT_QUEUE = TOPOLOGY.client_queue("client", "nonce-1").name
DIRECT_QUEUE = TOPOLOGY.direct_queue("worker-1").name
CONTROL_QUEUE = TOPOLOGY.control_queue("worker-1", "n").name
PASSIVE_IS_CHECKED = (4, 3, 1)

Operation = Callable[[BlockingChannel], object]


@dataclass(frozen=True)
class Secured:
    """A broker with the shipped definitions."""

    address: str
    passwords: dict[str, str] = field(repr=False)

    def url(self, role: Role) -> str:
        return amqp_url(role, self.passwords[variable(role)], self.address)

    def connect(self, role: Role) -> pika.BlockingConnection:
        return pika.BlockingConnection(pika.URLParameters(self.url(role)))

    def attempt(self, role: Role, operation: Operation) -> int:
        """Run one operation on a connection of its own; return AMQP's reply code, 200 for success, 0 for a nack."""
        with self.connect(role) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            try:
                operation(channel)
            except pika.exceptions.ChannelClosedByBroker as closed:
                return int(closed.reply_code)
            except pika.exceptions.UnroutableError:
                return 312
            except pika.exceptions.NackError:  # the queue was about to end
                return 0
            return 200


@pytest.fixture(
    scope="module", params=["local", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.timeout(600)])]
)
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    state = State(tmp_path_factory.mktemp("state"))
    prepare(state, {})
    passwords = read_env(state)
    if request.param == "local":
        yield from _local(state, passwords)
    else:
        yield from _docker(state, passwords)


def _local(state: State, passwords: dict[str, str]) -> Iterator[Secured]:
    try:
        node = RabbitNode(settings=[f"load_definitions = {state.secrets / 'definitions.json'}"])
    except BrokerError as error:
        pytest.skip(str(error))
    with node:
        conftest._nodes.add(node)
        yield Secured(f"127.0.0.1:{node.port}", passwords)
    conftest._nodes.discard(node)


def _docker(state: State, passwords: dict[str, str]) -> Iterator[Secured]:
    if not docker_runs():
        pytest.skip("no Docker engine runs here")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AMQP", "MANAGEMENT"):
            patch.setenv(f"STACK_{name}_PORT", "0")
        project = Project(f"warren-permissions-{secrets.token_hex(3)}", state)
        try:
            project.run("up", "--detach", "--quiet-pull", "--wait", "--wait-timeout", "120", "rabbitmq")
            address = project.address("rabbitmq", 5672)
            assert address is not None
            yield Secured(address, passwords)
        finally:
            project.run("down", "--volumes")


def publish(exchange: str, key: str, **properties: str) -> Operation:
    return lambda channel: channel.basic_publish(
        exchange, key, b"{}", pika.BasicProperties(delivery_mode=2, **properties), mandatory=True
    )


def get(queue: str) -> Operation:
    return lambda channel: channel.basic_get(queue)


def consume(queue: str) -> Operation:
    return lambda channel: channel.basic_consume(queue, lambda *_: None)


def purge(queue: str) -> Operation:
    return lambda channel: channel.queue_purge(queue)


def delete(queue: str) -> Operation:
    return lambda channel: channel.queue_delete(queue)


def queue(name: str, *, exclusive: bool = False) -> Operation:
    return lambda channel: channel.queue_declare(name, durable=not exclusive, exclusive=exclusive)


def exchange(name: str) -> Operation:
    return lambda channel: channel.exchange_declare(name, "direct", durable=True)


def bound(name: str, to: str, key: str) -> Operation:
    def operation(channel: BlockingChannel) -> None:
        channel.queue_declare(name, exclusive=True)
        channel.queue_bind(name, to, key)
        channel.basic_consume(name, lambda *_: None)

    return operation


def exchanged(name: str, key: str) -> Operation:
    """Nobody may be listening."""
    return lambda channel: channel.basic_publish(name, key, b"{}")


def consumed(name: str) -> Operation:
    def operation(channel: BlockingChannel) -> None:
        channel.queue_declare(name, exclusive=True)
        channel.basic_consume(name, lambda *_: None)

    return operation


ALLOWED: list[tuple[Role, str, Operation]] = [
    (Role.CLIENT, "submits", publish("warren.submit", "submit", user_id="client")),
    (Role.CLIENT, "asks", publish("warren.request", "request", user_id="client")),
    (Role.CLIENT, "is told on its own queue", queue(CLIENT_QUEUE, exclusive=True)),
    (Role.WORKER, "takes work", get("warren.work.default")),
    (Role.WORKER, "submits children", publish("warren.submit", "submit", user_id="worker")),
    (Role.WORKER, "replies", publish("warren.reply", "reply")),
    (Role.WORKER, "gives away what it cannot decode", publish("warren.dlx", "dead")),
    (Role.WORKER, "looks for a work queue", lambda channel: channel.queue_declare("warren.work.default", passive=True)),
    (Role.WORKER, "hears control messages", bound(CONTROL_QUEUE, "warren.control", "all")),
    (Role.WORKER, "answers and beats", exchanged("warren.beat", "answer")),
    (Role.WORKER, "has a queue of its own", consumed(DIRECT_QUEUE)),
    (Role.SCHEDULER, "takes submissions", get("warren.submit")),
    (Role.SCHEDULER, "takes replies", get("warren.reply")),
    (Role.SCHEDULER, "takes questions", get("warren.request")),
    (Role.SCHEDULER, "takes dead letters", get("warren.dead")),
    (Role.SCHEDULER, "dispatches", publish("warren.work", "default")),
    (Role.SCHEDULER, "hears beats", bound(TOPOLOGY.beat_queue("scheduler", "n").name, "warren.beat", "beat")),
    (Role.SCHEDULER, "takes its lock", queue(TOPOLOGY.lock.name, exclusive=True)),
]
"""What each role does in its work. Publishes are mandatory and confirmed, so the bindings are proved with them."""

REFUSED: list[tuple[Role, str, Operation, int]] = [
    (Role.CLIENT, "submits as somebody else", publish("warren.submit", "submit", user_id="scheduler"), 406),
    (Role.CLIENT, "asks as somebody else", publish("warren.request", "request", user_id="admin"), 406),
    (Role.CLIENT, "hands out work", publish("warren.work", "default"), 403),
    (Role.CLIENT, "forges a reply", publish("warren.reply", "reply"), 403),
    (Role.CLIENT, "forges a beat", publish("warren.beat", "beat"), 403),
    (Role.CLIENT, "controls workers", publish("warren.control", "all"), 403),
    (Role.CLIENT, "forges a dead letter", publish("warren.dlx", "dead"), 403),
    (Role.CLIENT, "forges an event", publish("warren.event", "task"), 403),
    (Role.CLIENT, "writes straight into a queue", publish("", "warren.work.default"), 403),
    (Role.CLIENT, "tells another client", publish("", NOBODYS), 403),
    (Role.CLIENT, "reads submissions", get("warren.submit"), 403),
    (Role.CLIENT, "consumes replies", consume("warren.reply"), 403),
    (Role.CLIENT, "takes work", consume("warren.work.default"), 403),
    (Role.CLIENT, "reads dead letters", get("warren.dead"), 403),
    (Role.CLIENT, "reads another client's queue", consume(NOBODYS), 403),
    (Role.CLIENT, "declares another client's queue", queue(NOBODYS, exclusive=True), 403),
    (Role.CLIENT, "declares a work queue", queue("warren.work.mine"), 403),
    (Role.CLIENT, "declares any other queue", queue("mine"), 403),
    (Role.CLIENT, "declares a queue with a name of the broker", queue("", exclusive=True), 403),
    (Role.CLIENT, "declares a queue below its own", queue(f"{CLIENT_QUEUE}.more", exclusive=True), 403),
    (Role.CLIENT, "declares a queue with an endless name", queue(f"warren.client.client.{'n' * 65}"), 403),
    (Role.CLIENT, "declares a queue whose name only holds its prefix", queue(f"x{CLIENT_QUEUE}"), 403),
    (Role.CLIENT, "declares an exchange", exchange("warren.client.client.x1.x"), 403),
    (Role.CLIENT, "purges submissions", purge("warren.submit"), 403),
    (Role.CLIENT, "purges work", purge("warren.work.default"), 403),
    (Role.CLIENT, "deletes submissions", delete("warren.submit"), 403),
    (Role.CLIENT, "deletes an exchange", lambda channel: channel.exchange_delete("warren.submit"), 403),
    (Role.CLIENT, "listens to replies", bound(CLIENT_QUEUE, "warren.reply", "reply"), 403),
    (Role.CLIENT, "listens to beats", bound(CLIENT_QUEUE, "warren.beat", "beat"), 403),
    (Role.CLIENT, "listens to submissions", bound(CLIENT_QUEUE, "warren.submit", "submit"), 403),
    (Role.WORKER, "submits as another user", publish("warren.submit", "submit", user_id="client"), 406),
    (Role.WORKER, "hands out work", publish("warren.work", "default"), 403),
    (Role.CLIENT, "hands work to one worker", publish("", DIRECT_QUEUE), 403),
    (Role.CLIENT, "takes a worker's work", consume(DIRECT_QUEUE), 403),
    (Role.WORKER, "hands work to one worker", publish("", DIRECT_QUEUE), 403),
    (Role.WORKER, "declares a queue below its own", queue(f"{DIRECT_QUEUE}.more", exclusive=True), 403),
    (Role.WORKER, "binds its own queue to work", bound(DIRECT_QUEUE, "warren.work", "default"), 403),
    (Role.WORKER, "controls other workers", publish("warren.control", "all"), 403),
    (Role.WORKER, "tells a client", publish("", NOBODYS), 403),
    (Role.WORKER, "reads submissions", get("warren.submit"), 403),
    (Role.WORKER, "reads replies of others", consume("warren.reply"), 403),
    (Role.WORKER, "reads questions", get("warren.request"), 403),
    (Role.WORKER, "reads what a client is told", consume(NOBODYS), 403),
    (Role.WORKER, "declares a work queue", queue("warren.work.mine"), 403),
    (Role.WORKER, "deletes a work queue", delete("warren.work.default"), 403),
    (Role.WORKER, "purges replies", purge("warren.reply"), 403),
    (Role.WORKER, "copies all work", bound(CONTROL_QUEUE, "warren.work", "default"), 403),
    (Role.WORKER, "listens to beats", bound(CONTROL_QUEUE, "warren.beat", "beat"), 403),
    (Role.SCHEDULER, "reads what a client is told", consume(NOBODYS), 403),
    (Role.SCHEDULER, "declares a client's queue", queue(NOBODYS, exclusive=True), 403),
    (Role.SCHEDULER, "declares outside of its namespace", queue("other"), 403),
    (Role.SCHEDULER, "publishes to the broker's own exchanges", publish("amq.topic", "x"), 403),
    (Role.MONITORING, "reads submissions", get("warren.submit"), 403),
    (Role.MONITORING, "submits", publish("warren.submit", "submit"), 403),
    (Role.MONITORING, "writes straight into a queue", publish("", "warren.work.default"), 403),
    (Role.MONITORING, "declares a queue", queue("mine"), 403),
    (Role.MONITORING, "purges", purge("warren.submit"), 403),
]


@pytest.mark.parametrize(("role", "operation"), [pytest.param(r, o, id=f"{r} {what}") for r, what, o in ALLOWED])
def test_a_role_can_do_its_work(secured: Secured, role: Role, operation: Operation) -> None:
    assert secured.attempt(role, operation) == 200


@pytest.mark.parametrize(
    ("role", "operation", "code"), [pytest.param(r, o, code, id=f"{r} {what}") for r, what, o, code in REFUSED]
)
def test_the_broker_refuses(secured: Secured, role: Role, operation: Operation, code: int) -> None:
    assert secured.attempt(role, operation) == code


def test_the_scheduler_can_tell_a_client(secured: Secured) -> None:
    with secured.connect(Role.CLIENT) as client:
        channel = client.channel()
        channel.queue_declare(CLIENT_QUEUE, exclusive=True)
        assert secured.attempt(Role.SCHEDULER, publish("", CLIENT_QUEUE)) == 200
        assert channel.basic_get(CLIENT_QUEUE, auto_ack=True)[2] == b"{}"
        # Exclusive: not even the same user's second connection may read it (AMQP 0-9-1, queue.declare).
        assert secured.attempt(Role.CLIENT, consume(CLIENT_QUEUE)) == 405


def test_the_scheduler_can_hand_work_to_one_worker(secured: Secured) -> None:
    with secured.connect(Role.WORKER) as worker:
        channel = worker.channel()
        channel.queue_declare(DIRECT_QUEUE, exclusive=True)
        assert secured.attempt(Role.SCHEDULER, publish("", DIRECT_QUEUE)) == 200
        assert channel.basic_get(DIRECT_QUEUE, auto_ack=True)[2] == b"{}"
        # Exclusive: not even another worker with the same user may read it.
        assert secured.attempt(Role.WORKER, consume(DIRECT_QUEUE)) == 405
    gone = 312  # NO_ROUTE; the broker deletes an exclusive queue soon after its connection has ended
    wait_until(
        lambda: secured.attempt(Role.SCHEDULER, publish("", DIRECT_QUEUE)) == gone, 10, "it ends with its worker"
    )


def test_a_client_may_look_at_depths_only_on_old_brokers(secured: Secured) -> None:
    with secured.connect(Role.SCHEDULER) as connection:
        properties = connection._impl.server_properties
        version = tuple(map(int, str(properties["version"]).split(".")[:3]))
    code = secured.attempt(Role.CLIENT, lambda channel: channel.queue_declare("warren.work.default", passive=True))
    assert code == (403 if version >= PASSIVE_IS_CHECKED else 200)


@pytest.mark.parametrize("vhost", ["%2F", VHOST])
def test_guest_does_not_exist(secured: Secured, vhost: str) -> None:
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(f"amqp://guest:guest@{secured.address}/{vhost}"))


def test_a_wrong_password_is_refused(secured: Secured) -> None:
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(amqp_url(Role.CLIENT, "wrong", secured.address)))


async def test_what_the_definitions_declare_is_what_the_scheduler_declares(secured: Secured) -> None:
    """RabbitMQ compares arguments: a difference between definitions and topology would be a 406 here."""
    connection = Connection(
        secured.url(Role.SCHEDULER), name="test", heartbeat=10, connect_timeout=10.0, telemetry=Telemetry()
    )
    await connection.start()
    try:
        await connection.ready(10.0)
        more = TOPOLOGY.work_queue("declared-later")
        await declare(
            connection,
            TOPOLOGY.exchanges(),
            (*TOPOLOGY.durable_queues(), TOPOLOGY.work_queue("default"), more, TOPOLOGY.lock),
        )
    finally:
        await connection.stop()
    assert secured.attempt(Role.WORKER, get(more.name)) == 200


@pytest.mark.parametrize("operators", [(), ("client",)])
async def test_only_operators_change_what_all_share(
    secured: Secured, tmp_path: Path, operators: tuple[str, ...]
) -> None:
    async with (
        RunningScheduler(secured.url(Role.SCHEDULER), "warren", tmp_path, operators=operators),
        AsyncClient(secured.url(Role.CLIENT), namespace="warren") as client,
    ):
        handle = await client.options(queue="email").submit("add", 1)
        async with asyncio.timeout(20):
            while True:
                if await client.queues("email"):
                    break
                await asyncio.sleep(0.05)
        assert await client.workers() == []
        if operators:
            assert (await client.pause("email")).paused
            assert (await client.set_quota("key", "anna", weight=2)).weight == 2.0
            with pytest.raises(InvalidFilter, match="no worker is alive"):
                await client.command("ping")
        else:
            for refused in (client.pause("email"), client.command("ping")):
                with pytest.raises(NotAllowed, match="only operators may do this"):
                    await refused
        assert len(await client.quotas()) == 2 * len(operators)
        assert await client.move("default", queue="email") == 1, "one's own may be moved"
        assert len([change async for change in client.changes()]) == 1 + 2 * len(operators)
        assert await handle.cancel() == "cancelled"


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    assert prepare(state, {}) is False
    assert (state.env_file.stat().st_mode & 0o777, state.secrets.stat().st_mode & 0o777) == (0o600, 0o700)
    assert all(os.access(file, os.R_OK) for file in state.secrets.iterdir())


async def test_a_worker_without_permissions_says_which_it_lacks(secured: Secured) -> None:
    """A client's user may not make a worker's queues."""
    running = RunningWorker(worker_settings(secured.url(Role.CLIENT), "warren"))
    entering = asyncio.create_task(running.__aenter__())
    try:
        await eventually(lambda: "403" in str(running.worker._deaf()))
        assert "not consuming warren.control" in str(running.worker._deaf())
    finally:
        entering.cancel()
        running.worker.service.drain()
        running.worker.service.drain()
        await running.ended()

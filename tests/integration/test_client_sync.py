"""The sync client against a real broker, with a stand-in for the scheduler."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest

from common.client.sync import Client, Handle
from common.errors import (
    ClientClosed,
    InvalidTask,
    ResultTimeout,
    SubmissionRefused,
    SubmissionUnknown,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnknownTask,
)
from common.ids import new_task_id
from common.options import TaskOptions
from common.tasks import Call, Registry, call, task
from common.topology import Topology
from deploy.local import Broker
from tests.support.stand_in import StandIn, eventually

registry: Registry = {}


@task(registry=registry, queue="math", priority=7)
def echo(*args: int) -> dict[str, object]:
    return {}


@task(registry=registry)
async def add(x: int, y: int) -> float:
    return x + y


@pytest.fixture
def scheduler(broker: Broker, namespace: str) -> Iterator[StandIn]:
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


@pytest.fixture
def client(broker: Broker, namespace: str) -> Iterator[Client]:
    with Client(broker.url, namespace=namespace, publish_timeout=10) as client:
        yield client


def test_a_task_is_submitted_and_its_result_comes_back(scheduler: StandIn, client: Client, namespace: str) -> None:
    handle = client.submit("add", 2, 3)

    assert handle.result(timeout=5) == 5
    assert handle.done()
    assert scheduler.users == {"guest"}
    assert all(str(queue).startswith(f"{namespace}.client.guest.") for queue in scheduler.reply_queues)


def test_a_failed_task_raises_with_the_remote_error(scheduler: StandIn, client: Client) -> None:
    with pytest.raises(TaskFailed, match="ValueError: no") as caught:
        client.submit("fail").result(timeout=5)

    assert (caught.value.kind, caught.value.type, caught.value.message) == ("exception", "ValueError", "no")


def test_other_ends_have_their_own_errors(scheduler: StandIn, client: Client) -> None:
    with pytest.raises(TaskCancelled):
        client.submit("cancelled").result(timeout=5)
    with pytest.raises(TaskExpired):
        client.submit("expired").result(timeout=5)


def test_many_tasks_share_messages(scheduler: StandIn, client: Client) -> None:
    handles = client.submit_many(call("add", i, i) for i in range(2500))

    assert [handle.result(timeout=5) for handle in handles] == [2 * i for i in range(2500)]
    assert scheduler.packs == [1000, 1000, 500]


def test_calls_that_end_with_an_error_say_what_was_submitted_before(scheduler: StandIn, client: Client) -> None:
    def calls() -> Iterator[Call[int]]:
        for number in range(25_000):
            yield Call("add", (number, 0))
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more") as raised:
        client.submit_many(calls())
    eventually(lambda: len(scheduler.tasks) == 20_000)
    (note,) = raised.value.__notes__
    said = re.fullmatch(r"the first 20,000 calls were submitted, as the tasks (\S+) to (\S+)", note)
    assert said is not None
    assert [json.loads(bytes(scheduler.tasks[task_id].args)) for task_id in said.groups()] == [[0, 0], [19_999, 0]]


def test_concurrent_submits_share_messages(scheduler: StandIn, client: Client) -> None:
    def submit_some() -> None:
        for i in range(50):
            client.submit("add", i)

    threads = [threading.Thread(target=submit_some) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    eventually(lambda: len(scheduler.tasks) == 2000)
    assert len(scheduler.packs) < 1000, "the submits did not share messages"
    assert set(scheduler.seen.values()) == {1}


def test_options_are_apart_from_arguments(scheduler: StandIn, client: Client) -> None:
    sent = client.options(queue="mail", priority=9).submit("echo", 1, queue="argument").result(5)

    assert sent == {"args": [1], "kwargs": {"queue": "argument"}, "queue": "mail", "priority": 9}


def test_what_is_said_about_a_task_travels_with_it(scheduler: StandIn, client: Client) -> None:
    later = client.options(delay=timedelta(hours=1), retries=5, labels={"a": "1"})
    one = later.options(retries=3, labels={"b": "2"}).submit("add", 1)
    many = later.submit_many([call("add", 2)])

    eventually(lambda: len(scheduler.tasks) == 2)
    assert scheduler.tasks[one.id].options == TaskOptions(delay=3600.0, retries=3, labels={"a": "1", "b": "2"})
    assert scheduler.tasks[many[0].id].options == TaskOptions(delay=3600.0, retries=5, labels={"a": "1"})
    with pytest.raises(InvalidTask, match="delay"):
        client.options(delay=-1)


def test_a_task_function_brings_its_defaults_and_its_result_type(scheduler: StandIn, client: Client) -> None:
    sent = client.submit(echo, 1).result(5)
    total = client.submit(add, 2, y=3).result(5)

    assert (sent["queue"], sent["priority"]) == ("math", 7)
    assert (total, type(total)) == (5.0, float)


def test_as_completed_yields_each_handle_when_it_is_done(scheduler: StandIn, client: Client) -> None:
    slow = client.submit("never")
    quick = client.submit_many([call("add", 1), call("fail")])
    results = client.as_completed([slow, *quick], timeout=5)

    assert {next(results).id, next(results).id} == {handle.id for handle in quick}
    scheduler.finish(slow.id, "late")
    assert next(results).result() == "late"
    assert list(results) == []


def test_the_end_of_a_wait_leaves_the_task_alone(scheduler: StandIn, client: Client) -> None:
    handle = client.submit("never")
    with pytest.raises(ResultTimeout):
        handle.result(timeout=0.05)
    with pytest.raises(ResultTimeout, match="1 tasks are not finished"):
        list(client.as_completed([handle], timeout=0.05))
    assert handle._watchers == [], "a wait that is over leaves nothing in the handle"

    scheduler.finish(handle.id, 1)
    assert handle.result(timeout=5) == 1


def test_another_process_asks_by_id(scheduler: StandIn, client: Client, broker: Broker, namespace: str) -> None:
    task_id = client.submit("add", 20, 22).id
    with Client(broker.url, namespace=namespace) as other:
        handle = other.handle(task_id)
        assert handle.result(timeout=5) == 42
        assert handle.status(timeout=5).state == "succeeded"
        assert other.handle(task_id).result(timeout=5) == 42


def test_a_task_that_nobody_submitted_is_unknown(scheduler: StandIn, client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(UnknownTask):
        client.handle(new_task_id()).result(timeout=5)
    assert time.monotonic() - started >= 1.0, "one answer is not enough: the submission may be on its way"
    assert len(scheduler.asked) == 2

    with pytest.raises(UnknownTask):
        client.handle(new_task_id()).status(timeout=5)
    assert time.monotonic() - started >= 2.0


def test_a_result_that_was_not_told_is_asked_for(scheduler: StandIn, client: Client) -> None:
    scheduler.telling = False
    handle = client.submit("add", 1, 1)

    assert handle.result(timeout=8) == 2
    assert len(scheduler.asked) == 1


def test_status_of_a_task_that_waits(scheduler: StandIn, client: Client) -> None:
    assert client.submit("never").status(timeout=5).state == "queued"


def test_what_cannot_be_sent_is_refused_before_anything_is(scheduler: StandIn, client: Client) -> None:
    with pytest.raises(InvalidTask, match=r"call 2 .* JSON"):
        client.submit_many([call("add", 1), call("add", 2), call("add", object())])
    with pytest.raises(InvalidTask, match="queue"):
        client.options(queue="no spaces").submit("add")
    with pytest.raises(InvalidTask, match="many"):
        client.options(task_id=new_task_id()).submit_many([call("add")])

    assert client.submit("add", 7).result(5) == 7
    assert len(scheduler.tasks) == 1


def test_the_same_id_may_be_submitted_again(scheduler: StandIn, client: Client) -> None:
    task_id = new_task_id()
    first = client.options(task_id=task_id).submit("never")
    again = client.options(task_id=task_id).submit("never")

    assert again is first
    eventually(lambda: scheduler.seen[task_id] == 2)
    scheduler.finish(task_id, 1)
    assert first.result(5) == 1


def test_without_a_scheduler_the_submission_waits_in_the_queue(client: Client, broker: Broker, namespace: str) -> None:
    handles = [client.submit("add", 1, 2), *client.submit_many([call("add", 3), call("add", 4)])]
    with StandIn(broker.url, namespace):
        assert [handle.result(timeout=10) for handle in handles] == [3, 3, 4]


def test_a_user_who_may_not_declare_gets_a_clear_error(broker: Broker, namespace: str) -> None:
    if broker.node is None:
        pytest.skip("needs a node that we may administer")
    own = rf"^{namespace}\.client\.poor\."
    broker.node.add_user("poor", "poor", own, rf"^{namespace}\.(submit|request)$|{own}", own)
    with (
        Client(broker.node.url("poor", "poor"), namespace=namespace) as client,
        pytest.raises(SubmissionRefused, match="no scheduler has been started in this namespace"),
    ):
        client.submit("add", 1)


def test_an_unroutable_submission_is_refused(client: Client, broker: Broker, namespace: str) -> None:
    topology = Topology(namespace)
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        connection.channel().exchange_declare(topology.submit_exchange.name, "direct", durable=True)

    with pytest.raises(SubmissionRefused, match="unroutable") as caught:
        client.submit("add", 1)
    assert len(caught.value.ids) == 1


def test_without_a_broker_the_error_names_the_id_and_the_reason(namespace: str) -> None:
    with Client("amqp://127.0.0.1:1/", namespace=namespace, publish_timeout=0.3) as client:
        started = time.monotonic()
        with pytest.raises(SubmissionUnknown) as caught:
            client.submit_many([call("add", 1), call("add", 2)])

    assert time.monotonic() - started < 5
    assert len(caught.value.ids) == 2
    assert "Connection refused" in str(caught.value)


def test_closing_ends_every_wait(scheduler: StandIn, broker: Broker, namespace: str) -> None:
    client = Client(broker.url, namespace=namespace)
    done, never = client.submit("add", 1), client.submit("never")
    assert done.result(5) == 1
    ends: list[str] = []

    def wait() -> None:
        with pytest.raises(ClientClosed):
            never.result()
        ends.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: bool(never._watchers))
    client.close()
    thread.join(5)

    assert ends == ["closed"]
    assert [handle.result() for handle in client.as_completed([done])] == [1]
    with pytest.raises(ClientClosed):
        never.result()
    with pytest.raises(ClientClosed):
        client.submit("add", 1)
    client.close()


def test_a_forgotten_client_closes_itself(scheduler: StandIn, broker: Broker, namespace: str) -> None:
    handle = Client(broker.url, namespace=namespace).submit("add", 1)
    assert handle.result(5) == 1, "a handle keeps its client alive"
    thread = next(thread for thread in threading.enumerate() if thread.name == "warren.client")

    del handle
    thread.join(5)
    assert not thread.is_alive()


def test_dropped_handles_leave_nothing(scheduler: StandIn, client: Client) -> None:
    handles = client.submit_many(call("never") for _ in range(3000))
    eventually(lambda: len(scheduler.tasks) == 3000)
    assert len(client._link.core.waiting) == 3000

    del handles
    assert len(client._link.core.waiting) == 0


def test_a_program_that_forgets_to_close_still_ends(scheduler: StandIn, broker: Broker, namespace: str) -> None:
    program = (
        "import sys; from common import Client\n"
        "client = Client(sys.argv[1], namespace=sys.argv[2])\n"
        "print(client.submit('add', 1, 2).result(timeout=10))\n"
        "assert 'aio_pika' not in sys.modules and 'prometheus_client' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, broker.url, namespace],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "3", "")


def test_a_virtual_host_and_a_login_are_taken_from_the_url(broker: Broker, namespace: str) -> None:
    if broker.node is None:
        pytest.skip("needs a node that we may administer")
    broker.node.add_user("name with space", "p@ss/word", ".*", ".*", ".*")
    url = broker.node.url("name with space", "p@ss/word")
    assert "%20" in str(urlsplit(url).username)
    with StandIn(broker.url, namespace) as scheduler, Client(url, namespace=namespace) as client:
        handle: Handle[int] = client.submit("add", 5)
        assert handle.result(5) == 5
        assert scheduler.users == {"name with space"}

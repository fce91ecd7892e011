"""The sync client against a real broker, with a stand-in for the scheduler."""

from collections.abc import Iterator

import pytest

from common.client.sync import Client
from common.errors import TaskFailed
from common.tasks import call
from deploy.local import Broker
from tests.support.stand_in import StandIn


@pytest.fixture
def scheduler(broker: Broker, namespace: str) -> Iterator[StandIn]:
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


@pytest.fixture
def client(broker: Broker, namespace: str) -> Iterator[Client]:
    with Client(broker.url, namespace=namespace, publish_timeout=10) as client:
        yield client


def test_a_task_is_submitted_and_its_result_comes_back(scheduler: StandIn, client: Client) -> None:
    handle = client.submit("add", 2, 3)

    assert handle.result(timeout=5) == 5
    assert handle.done()
    assert scheduler.users == {"guest"}


def test_a_failed_task_raises_with_the_remote_error(scheduler: StandIn, client: Client) -> None:
    with pytest.raises(TaskFailed, match="ValueError: no") as caught:
        client.submit("fail").result(timeout=5)

    assert (caught.value.type, caught.value.message) == ("ValueError", "no")


def test_many_tasks_share_messages(scheduler: StandIn, client: Client) -> None:
    handles = client.submit_many(call("add", i, i) for i in range(2500))

    assert [handle.result(timeout=5) for handle in handles] == [2 * i for i in range(2500)]
    assert scheduler.packs == [1000, 1000, 500]

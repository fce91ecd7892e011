"""Children in a system whose services and clients are different broker users, as it is deployed."""

import pytest

from common import UnknownTask
from deploy.definitions import Role
from deploy.local import Broker
from tests.support.conditions import wait_until
from tests.support.users import broker_users
from tests.system.conftest import StartCluster

ROLES = {"scheduler": Role.SCHEDULER, "worker": Role.WORKER, "anna": Role.CLIENT, "bob": Role.CLIENT}


def test_the_owner_of_a_task_can_ask_about_what_it_has_submitted(
    broker: Broker, namespace: str, start_cluster: StartCluster
) -> None:
    if broker.node is None:
        pytest.skip("users can be made on a private node only")
    with broker_users(broker.node, namespace, ROLES) as urls:
        cluster = start_cluster(
            scheduler={"WARREN_AMQP_URL": urls["scheduler"]}, worker={"WARREN_AMQP_URL": urls["worker"]}
        )
        anna, bob = (cluster.client(amqp_url=urls[user]) for user in ("anna", "bob"))
        parent = anna.submit("have_child", 7)
        child = anna.handle(parent.result(timeout=20))
        assert child.result(timeout=20) == 49
        assert child.status().parent == parent.id
        assert [task.id for task in anna.tasks()] == [child.id, parent.id]
        with pytest.raises(UnknownTask):
            bob.handle(child.id).status()
        assert list(bob.tasks()) == []
        wait_until(lambda: not cluster.out(), 10, "all is over", cluster.out)
        for client in (anna, bob):
            client.close()
        for service in reversed(cluster.services):
            service.stop()

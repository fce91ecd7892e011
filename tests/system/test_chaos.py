"""Everything at once for minutes, by a seeded script; run with `pytest -m chaos`.

WARREN_TEST_CHAOS_SEED and WARREN_TEST_CHAOS_FAULTS (40) choose another script and its length.
"""

import os
import random
import secrets
import time
from collections.abc import Callable

import pytest

from common.tasks import Call
from deploy.local import RabbitNode
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected, Load
from tests.system.conftest import Note, StartCluster

SEED = os.environ.get("WARREN_TEST_CHAOS_SEED") or secrets.token_hex(4)
FAULTS = int(os.environ.get("WARREN_TEST_CHAOS_FAULTS", "40"))
TASKS = 200  # for each fault
POISONS = ("kill_process", "segfault", "exit_at_once", "kill_worker")


def mixed(key: int) -> tuple[Call[int], Expected]:
    """Mostly short tasks, some of up to two seconds, a failing one now and then and very few killers."""
    if key % 2000 == 1999:
        return Call(random.Random(key).choice(POISONS), (key,)), Expected(key, error_kind="crashed")
    if key % 50 == 49:
        return Call("fail", (key,)), Expected(key, error_kind="exception")
    seconds = 2.0 if key % 100 == 50 else 0.05 if key % 10 == 5 else 0.002
    name = "square_in_thread" if key % 3 == 0 else "square"
    return Call(name, (key, seconds)), Expected(key, key * key)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_chaos(private_broker: RabbitNode, start_on_node: StartCluster, note: Note) -> None:
    print(f"WARREN_TEST_CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    cluster = start_on_node(workers=3, slots=16)
    faults = faults_of(cluster, private_broker, chance)
    client = cluster.client()
    loads: list[Load] = []
    for number in range(FAULTS):
        load = Load(client, cluster.journal, mixed, count=TASKS, give_up=300.0).start()
        loads.append(load)
        await_some(load, chance.randrange(TASKS // 2), "the start")
        name = chance.choice(list(faults))
        done = sum(each.finished for each in loads)
        print(f"{time.strftime('%H:%M:%S')} fault {number}: {name}; {done} of {len(loads) * TASKS} tasks are done")
        faults[name]()
        await_some(load, chance.randrange(TASKS), name)
    for load in loads:
        load.join(300)
    note(cluster.assert_nothing_lost(timeout=60))


def await_some(load: Load, count: int, what: str) -> None:
    """Return when `count` tasks have finished; a wait that long is a failure of its own."""
    wait_until(lambda: load.finished >= count, 120, f"{count} tasks run after {what}", lambda: load.finished)


def faults_of(cluster: Cluster, node: RabbitNode, chance: random.Random) -> dict[str, Callable[[], None]]:
    """The faults, each of which is over when it returns; some are named twice to come more often."""

    def kill_worker() -> None:
        chance.choice(cluster.workers).kill()

    def freeze_somebody() -> None:
        victim = chance.choice(cluster.services)
        victim.pause()
        time.sleep(chance.choice([1, 4, 12]))
        victim.resume()

    def kill_broker() -> None:
        node.flush_metadata()
        node.kill()
        node.start()

    def alarm() -> None:
        node.set_memory_alarm(True)
        time.sleep(chance.choice([1, 5, 20]))
        node.set_memory_alarm(False)

    def freeze_broker() -> None:
        node.pause()
        time.sleep(chance.choice([1, 15]))
        node.resume()

    def kill_both() -> None:
        kill_worker()
        cluster.scheduler.kill()

    return {
        "kill a worker": kill_worker,
        "kill another worker": kill_worker,
        "kill the scheduler": cluster.scheduler.kill,
        "kill the scheduler again": cluster.scheduler.kill,
        "kill both": kill_both,
        "freeze somebody": freeze_somebody,
        "close all connections": node.close_all_connections,
        "kill the broker": kill_broker,
        "restart the broker": node.restart,
        "freeze the broker": freeze_broker,
        "alarm": alarm,
    }

"""The tests can fail: with a rule taken out, the scenario that guards it turns red, for the right reason.

Design section 12: without this, green says nothing. Each scenario is run in good order too, so that red means the rule.
"""

import re
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pika
import pytest
from msgspec import Raw

from common.errors import ResultTimeout
from common.ids import new_leases
from common.tasks import Call
from common.topology import Topology
from common.wire import Outcome, OutcomeKind, Reply, encode
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.journal import Expected
from tests.system.conftest import StartCluster
from tests.system.mutants import MUTANTS
from tests.system.workloads import naps, squares

TASKS = 120
FLOW = {"chunk": 10, "window": 60}
BOUND = 15.0  # seconds within which each scenario is over in good order


class Scenario(NamedTuple):
    """A fault, and how the cluster has to stand it.

    Attributes:
        run: does it; raises when something is wrong.
        options: of the cluster.
        scheduler, worker: the failpoint of each, which fires once.
    """

    run: Callable[[Cluster], None]
    options: Mapping[str, Any] = MappingProxyType({})
    scheduler: str = ""
    worker: str = ""


def stored(cluster: Cluster) -> None:
    """A scheduler that dies before its commit takes nothing with it."""
    load = cluster.load(squares, TASKS, **FLOW)
    cluster.scheduler.await_exits(1)
    wait_until(lambda: load.confirmed == TASKS, BOUND, "all is confirmed")
    wait_until(lambda: len(cluster.store.tasks()) == TASKS, BOUND / 2, "each confirmed task is in the store")
    load.join(BOUND)
    cluster.assert_nothing_lost()


def published_again(cluster: Cluster) -> None:
    """What was committed and not published goes out under the same lease, without anybody missing it."""
    cluster.load(squares, TASKS, **FLOW).join(BOUND)
    cluster.assert_nothing_lost()
    assert {task.attempt for task in cluster.store.tasks().values()} == {1}, "a dispatch was found to be lost"


def lone_task_runs_again(cluster: Cluster) -> None:
    """The only task in the system is in the hands of a worker that dies before its reply."""
    load = cluster.load(squares, 1)
    load.join(BOUND)
    cluster.assert_nothing_lost()


def forged_replies(cluster: Cluster) -> None:
    """Replies under leases that were never given change nothing."""
    load = cluster.load(naps(0.05), TASKS, window=TASKS)
    wait_until(lambda: load.confirmed == TASKS and load.finished, BOUND, "tasks run")
    cluster.workers[0].pause()
    seen = cluster.scheduler.metric("warren_reply_batch_tasks_sum")
    outcomes = [
        Outcome(task_id, lease, 1, OutcomeKind.SUCCEEDED, Raw(b'"forged"'))
        for task_id, lease in zip(cluster.journal.confirmed, new_leases(TASKS), strict=True)
    ]
    with pika.BlockingConnection(pika.URLParameters(cluster.broker.url)) as connection:
        connection.channel().basic_publish(
            Topology(cluster.namespace).reply_exchange.name,
            "reply",
            encode(Reply("forger", outcomes)),
            pika.BasicProperties(type=Reply.TYPE),
        )
        wait_until(
            lambda: cluster.scheduler.metric("warren_reply_batch_tasks_sum") >= seen + TASKS, BOUND, "they are read"
        )
    cluster.workers[0].resume()
    load.join(BOUND)
    cluster.assert_nothing_lost()


def poison_is_bounded(cluster: Cluster) -> None:
    """A task that kills its worker kills one: after that it runs in a process of its own."""

    def make(key: int) -> tuple[Call[int], Expected]:
        return (Call("kill_process", (key,)), Expected(key, error_kind="crashed")) if key == 20 else squares(key)

    load = cluster.load(make, 40, **FLOW)
    load.join(2 * BOUND)
    deaths = len(cluster.workers[0].exits)
    assert deaths == 1, f"the poison took {deaths} workers with it"
    cluster.assert_nothing_lost()


NO_SEARCH = {"WARREN_DEAD_AFTER": "60", "WARREN_RESCUE_INTERVAL": "60"}
"""Looking for what is in nobody's hands, and for dead workers, would come to the aid of the mutants too, if later."""
SCENARIOS = {
    "stored": Scenario(stored, scheduler="intake.before_commit:kill:4"),
    "published_again": Scenario(
        published_again, {"scheduler": {"WARREN_RESCUE_INTERVAL": "1"}}, scheduler="dispatcher.before_publish:kill:4"
    ),
    "lone_task": Scenario(
        lone_task_runs_again,
        {"workers": 2, "scheduler": NO_SEARCH},
        worker="worker.before_reply:kill:1",
    ),
    "forged_replies": Scenario(forged_replies),
    "poison": Scenario(poison_is_bounded, {"scheduler": NO_SEARCH}),
}

# By scenario: the mutants that it has to find, and what it then says.
MUTANTS_OF = {
    "stored": {
        "acks_before_the_commit": "each confirmed task is in the store: not within",
        "limits_deliveries": "each confirmed task is in the store: not within",
    },
    "published_again": {"mark_claims_everything": "a dispatch was found to be lost"},
    "lone_task": {"acks_before_the_reply": "is not finished", "rescues_nothing": "is not finished"},
    "forged_replies": {"any_lease_will_do": "tasks ended otherwise than expected: .* is 'forged'"},
    "poison": {"runs_what_is_redelivered": r"the poison took \d+ workers with it"},
}


def options(mutant: str, scenario: Scenario, folder: Path) -> dict[str, Any]:
    """The options of a cluster of mutants, with its failpoints armed."""
    chosen = dict(scenario.options)
    for service, point in (("scheduler", scenario.scheduler), ("worker", scenario.worker)):
        if point:
            once = folder / f"once-{mutant}"
            once.mkdir()
            armed = {"WARREN_FAILPOINTS": point, "WARREN_FAILPOINTS_ONCE": str(once)}
            chosen[service] = {**chosen.get(service, {}), **armed}
    return {"launcher": ("-m", "tests.system.mutants", mutant), **chosen}


def verdict_on(scenario: Scenario, cluster: Cluster) -> str:
    """What is wrong; empty when nothing is."""
    try:
        scenario.run(cluster)
    except (AssertionError, ResultTimeout) as error:
        return str(error) or "an assertion without words"
    died = {code for service in cluster.services for code in service.exits}
    return "" if died <= {-signal.SIGKILL} else f"not only the fault has ended a service: {died}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_mutants_are_found(name: str, start_cluster: StartCluster, tmp_path: Path) -> None:
    """The scenario is green in good order, and red with each of its mutants; they run side by side."""
    scenario, expected = SCENARIOS[name], {"nothing": "", **MUTANTS_OF[name]}
    clusters = start_cluster.together(*(options(mutant, scenario, tmp_path) for mutant in expected))
    with ThreadPoolExecutor(len(clusters)) as pool:
        verdicts = dict(zip(expected, pool.map(lambda cluster: verdict_on(scenario, cluster), clusters), strict=True))

    assert verdicts["nothing"] == "", "the scenario is red although no rule is missing"
    for mutant, reason in MUTANTS_OF[name].items():
        assert verdicts[mutant], f"{mutant} was not noticed"
        assert re.search(reason, verdicts[mutant], re.DOTALL), f"{mutant}: red for another reason: {verdicts[mutant]}"


def test_every_mutant_has_its_scenario() -> None:
    assert {mutant for found in MUTANTS_OF.values() for mutant in found} == MUTANTS.keys() - {"nothing"}

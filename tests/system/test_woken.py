"""A worker stands still with many short tasks in hand; when it goes on, it runs nothing that is not its own any more.

One of the tasks itself stops the process, so that nothing else is about to begin at that moment, and what is begun
afterwards was begun by a worker that had not heard the news.
"""

import time
from collections import Counter
from pathlib import Path

import pytest

from common import Handle
from common.tasks import Call
from deploy.local import RabbitNode
from tests.support.cluster import Cluster
from tests.support.conditions import wait_until
from tests.support.effects import Effect
from tests.support.journal import Expected
from tests.support.services import ServiceProcess
from tests.system.conftest import Note, StartCluster
from tests.system.test_frozen import await_connections
from tests.system.workloads import naps, squares

MANY = 1500
STOPS_AT = 400
"""Which of them stops its worker: later than what makes the bundles large, long before the last."""
BUSY = 6.0
PADDING = "." * 2000
"""In each task, so that a socket holds more than is read at once, and the news come late."""
UNFINISHED = ("scheduled", "queued", "dispatched")
QUICK = {"WARREN_DEAD_AFTER": "5", "WARREN_RESCUE_INTERVAL": "1"}
functions = pytest.mark.parametrize("function", ["square_or_stop", "square_or_stop_in_thread"])


class Scene:
    """One slot of each worker is busy, many short tasks go through the others, and one of them stops its worker.

    Args:
        cluster: where.
        function: of the short tasks.
        folder: for the mark of the one that stops its worker.
        late: what follows on that one is submitted when the worker stands still, and lies unread in its socket.
            Otherwise it is there before, so that the worker has as much as it takes, and more waits in the queue.

    Attributes:
        keys: of the short tasks, in their order.
        handles: theirs.
        stopped: the worker that stands still.
        before: what had been begun when it did.
    """

    def __init__(self, cluster: Cluster, function: str, folder: Path, *, late: bool) -> None:
        self._cluster = cluster
        self._client = cluster.client()
        self._function = function
        self._marker = str(folder / "marker")
        self._busy = cluster.load(naps(BUSY), len(cluster.workers), chunk=1)
        wait_until(lambda: len(cluster.effects.runs()) == len(cluster.workers), 20, "a slot of each worker is busy")
        self.keys = list(cluster.journal.keys(MANY))
        self.handles: list[Handle[int]] = []
        if late:
            self._submit(0, STOPS_AT)
            for handle in self.handles:
                handle.result(timeout=30)
            self._submit(STOPS_AT, STOPS_AT + 1)
            self.stopped = self._await_stop()
            self._submit(STOPS_AT + 1, MANY)
            wait_until(lambda: self._unacked() >= 2, 20, "it was given more", self._unacked)
        else:
            self._submit(0, MANY)
            self.stopped = self._await_stop()
        self.before = self._runs()

    def cancel(self) -> None:
        """Cancel what has not ended."""
        # The broker has confirmed them all; what the scheduler has not read by now would be no part of the answer.
        ids = {handle.id for handle in self.handles}
        wait_until(lambda: ids <= set(self._cluster.store.tasks()), 20, "all are stored")
        states = self._client.cancel(labels={"job": "1"}, state=UNFINISHED)
        assert len(states) > 100, "there was a lot in hand"
        assert set(states.values()) == {"cancelled"}
        for handle, key in zip(self.handles, self.keys, strict=True):
            value = "cancelled" if handle.id in states else key * key
            self._cluster.journal.confirmed[handle.id] = Expected(key, value)
            self._cluster.journal.told[handle.id] = value

    def finish(self) -> None:
        """Have them all done by somebody else."""
        for handle, key in zip(self.handles, self.keys, strict=True):
            if key != self.keys[STOPS_AT]:
                assert handle.result(timeout=60) == key * key
                self._cluster.journal.told[handle.id] = key * key
            self._cluster.journal.confirmed[handle.id] = Expected(key, key * key)

    def wake(self) -> list[Effect]:
        """Let the worker go on, until everything else is done too; what it has begun of the short tasks since then."""
        before = len(self._cluster.effects.all())
        self.stopped.resume()
        self._cluster.load(squares, 200).join()
        self._busy.join()
        wait_until(lambda: not self._cluster.out(), 20, "nothing is out", self._cluster.out)
        since = self._cluster.effects.all()[before:]
        return [each for each in since if each.key in set(self.keys) and each.what == "start"]

    def stop_told(self) -> None:
        """Take down what became of the task that has stopped its worker."""
        handle, key = self.handles[STOPS_AT], self.keys[STOPS_AT]
        self._cluster.journal.told[handle.id] = handle.result(timeout=60)
        assert self._cluster.journal.told[handle.id] == key * key

    def _submit(self, first: int, end: int) -> None:
        calls: list[Call[int]] = [
            Call(self._function, (self.keys[number], self._marker if number == STOPS_AT else "", PADDING))
            for number in range(first, end)
        ]
        self.handles += self._client.submit_many([call.options(labels={"job": "1"}) for call in calls])

    def _unacked(self) -> int:
        """Bundles at workers, beside those of the busy slots and of the task that has stopped its worker."""
        node = self._cluster.broker.node
        assert node is not None
        return node.queue_depths()[f"{self._cluster.namespace}.work.default"].unacked - len(self._cluster.workers) - 1

    def _await_stop(self) -> ServiceProcess:
        found: list[ServiceProcess] = []

        def stopped() -> bool:
            found[:] = [worker for worker in self._cluster.workers if _state(worker.pid) == "T"]
            return bool(found)

        wait_until(stopped, 30, "a worker stands still")
        return found[0]

    def _runs(self) -> Counter[int]:
        mine = set(self.keys)
        return Counter({key: count for key, count in self._cluster.effects.runs().items() if key in mine})


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@functions
def test_what_was_cancelled_meanwhile_is_not_run(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path, function: str
) -> None:
    cluster = start_on_node(slots=8, scheduler=QUICK)
    scene = Scene(cluster, function, tmp_path, late=True)
    scene.cancel()
    time.sleep(2)  # long enough to be a pause

    assert scene.wake() == []

    assert not scene.stopped.exits, "it goes on"
    assert scene.stopped.metric("warren_worker_standstills_total") == 1
    note(cluster.assert_nothing_lost())


@functions
def test_what_was_cancelled_after_its_connection_was_given_up_is_not_run(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path, function: str
) -> None:
    """What is told to all workers then reaches this one in no buffer."""
    cluster = start_on_node(slots=2, scheduler=QUICK)
    scene = Scene(cluster, function, tmp_path, late=False)
    await_connections(private_broker, private_broker.connection_count() - 2)
    scene.cancel()

    assert scene.wake() == []

    assert not scene.stopped.exits, "it goes on"
    note(cluster.assert_nothing_lost())


def test_what_was_cancelled_before_everything_was_started_again_is_not_run(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path
) -> None:
    """Neither the worker nor the scheduler that come have ever heard of the cancel; the bundles wait in the queue."""
    cluster = start_on_node(slots=2, scheduler=QUICK)
    scene = Scene(cluster, "square_or_stop", tmp_path, late=False)
    await_connections(private_broker, private_broker.connection_count() - 2)
    scene.cancel()
    cluster.scheduler.kill()
    cluster.scheduler.await_ready()
    scene.stopped.kill()

    assert scene.wake() == []

    note(cluster.assert_nothing_lost())


@functions
def test_what_others_have_done_meanwhile_is_not_run_again(
    private_broker: RabbitNode, start_on_node: StartCluster, note: Note, tmp_path: Path, function: str
) -> None:
    cluster = start_on_node(slots=8, workers=2, scheduler=QUICK)
    scene = Scene(cluster, function, tmp_path, late=True)
    scene.finish()

    assert scene.wake() == []

    scene.stop_told()
    runs = cluster.effects.runs()
    assert {runs[key] for key in scene.keys if key not in scene.before} == {1}
    assert not scene.stopped.exits, "it goes on"
    note(cluster.assert_nothing_lost())

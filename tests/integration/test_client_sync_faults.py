"""The sync client while the broker restarts, cuts it off or runs out of memory, and after a fork."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator

import pytest

from common.client.sync import Client, Handle
from common.errors import SubmissionUnknown
from common.tasks import call
from deploy.local import RabbitNode
from tests.support.stand_in import StandIn, eventually


@pytest.fixture
def scheduler(private_broker: RabbitNode) -> Iterator[StandIn]:
    with StandIn(private_broker.url(), "faults") as stand_in:
        yield stand_in


@pytest.fixture
def client(private_broker: RabbitNode) -> Iterator[Client]:
    with Client(private_broker.url(), namespace="faults", publish_timeout=60) as client:
        yield client


def test_results_come_after_the_broker_closed_the_connection(
    private_broker: RabbitNode, scheduler: StandIn, client: Client
) -> None:
    handles = client.submit_many(call("never") for _ in range(1500))
    eventually(lambda: len(scheduler.tasks) == 1500)
    scheduler.telling = False
    private_broker.close_all_connections()
    for number, handle in enumerate(handles):
        scheduler.give(handle.id, number)

    assert [handle.result(timeout=15) for handle in handles] == list(range(1500))
    assert max(len(ask.ids) for ask in scheduler.asked) == 1000
    assert len(scheduler.reply_queues) == 1, "each connection has a queue of its own"


def test_results_that_come_later_are_told_to_the_new_connection(
    private_broker: RabbitNode, scheduler: StandIn, client: Client
) -> None:
    handle = client.submit("never")
    eventually(lambda: bool(scheduler.tasks))
    private_broker.close_all_connections()
    eventually(lambda: any(handle.id in ask.ids for ask in scheduler.asked))
    scheduler.finish(handle.id, "told")

    assert handle.result(timeout=4) == "told", "told at once, not asked for after 5 s"


def test_submits_survive_a_restart_of_the_broker(
    private_broker: RabbitNode, scheduler: StandIn, client: Client
) -> None:
    stop = threading.Event()
    results: list[Handle[int]] = []

    def submit_on_and_on() -> None:
        while not stop.is_set():
            results.append(client.submit("add", len(results)))

    threads = [threading.Thread(target=submit_on_and_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(results) > 20)
    private_broker.restart()
    before = len(results)
    eventually(lambda: len(results) > before + 20, timeout=30)
    stop.set()
    for thread in threads:
        thread.join(20)

    assert {type(handle.result(timeout=20)) for handle in list(results)} == {int}


def test_no_confirm_under_a_memory_alarm_is_unknown_and_may_be_repeated(
    private_broker: RabbitNode, scheduler: StandIn
) -> None:
    with Client(private_broker.url(), namespace="faults", publish_timeout=1.0) as client:
        assert client.submit("add", 1).result(5) == 1
        private_broker.set_memory_alarm(True)
        with pytest.raises(SubmissionUnknown) as caught:
            client.submit("add", 1, 2)
        private_broker.set_memory_alarm(False)
        (task_id,) = caught.value.ids
        assert client.options(task_id=task_id).submit("add", 1, 2).result(10) == 3


def test_a_frozen_broker_is_given_up_after_its_heartbeats(private_broker: RabbitNode, scheduler: StandIn) -> None:
    with Client(private_broker.url(), namespace="faults", publish_timeout=60, heartbeat=5) as client:
        handle = client.submit("never")
        eventually(lambda: bool(scheduler.tasks))
        first = client._link._session
        private_broker.pause()
        try:
            eventually(lambda: client._link._session is not first, timeout=40)
        finally:
            private_broker.resume()
        eventually(lambda: any(handle.id in ask.ids for ask in scheduler.asked), timeout=20)
        scheduler.finish(handle.id, 1)
        assert handle.result(timeout=20) == 1


def _in_a_child(work: object) -> int:
    """Run `work` in a forked child; returns its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn about forking with threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_starts_anew_and_leaves_the_parent_alone(
    private_broker: RabbitNode, scheduler: StandIn, client: Client
) -> None:
    inherited = client.submit("never")
    eventually(lambda: bool(scheduler.tasks))
    connections, session = private_broker.connection_count(), client._link._session

    def in_the_child() -> None:
        assert client.submit("add", 1, 2).result(timeout=10) == 3
        assert inherited.status(timeout=10).state == "queued"
        client.close()

    assert _in_a_child(in_the_child) == 0
    assert client.submit("add", 4).result(timeout=5) == 4
    scheduler.finish(inherited.id, "both")
    assert inherited.result(timeout=15) == "both"
    eventually(lambda: private_broker.connection_count() == connections)
    assert client._link._session is session, "the parent's connection was cut"


def test_a_child_that_lives_on_does_not_hold_the_parents_connection(
    private_broker: RabbitNode, scheduler: StandIn
) -> None:
    client = Client(private_broker.url(), namespace="faults")
    assert client.submit("add", 1).result(5) == 1
    before = private_broker.connection_count()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)  # until the parent is done
        os._exit(0)
    try:
        client.close()
        eventually(lambda: private_broker.connection_count() == before - 1)
    finally:
        os.close(writing)
        os.waitpid(pid, 0)
        os.close(reading)


def _work(url: str, number: int) -> int:
    with Client(url, namespace="faults") as client:
        return int(client.submit("add", number, 1).result(timeout=10))


def _work_with_the_parents(number: int) -> int:
    assert _shared is not None
    return int(_shared.submit("add", number, 1).result(timeout=10))


_shared: Client | None = None


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_multiprocessing(
    private_broker: RabbitNode, scheduler: StandIn, client: Client, method: str
) -> None:
    global _shared
    _shared = client
    assert client.submit("add", 1).result(5) == 1
    url = private_broker.url()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(2) as pool:
            if method == "fork":
                assert pool.map(_work_with_the_parents, range(4)) == [1, 2, 3, 4]
            assert pool.starmap(_work, [(url, number) for number in range(4)]) == [1, 2, 3, 4]
            pool.close()
            pool.join()
    _shared = None


def test_many_threads_wait_and_all_are_told(scheduler: StandIn, client: Client) -> None:
    handles = client.submit_many(call("never") for _ in range(300))
    got: list[object] = []
    threads = [threading.Thread(target=lambda h=handle: got.append(h.result(timeout=30))) for handle in handles]
    for thread in threads:
        thread.start()
    eventually(lambda: all(handle._watchers for handle in handles))
    for number, handle in enumerate(handles):
        scheduler.finish(handle.id, number)
    for thread in threads:
        thread.join(30)

    assert sorted(got) == list(range(300))  # type: ignore[type-var]


def test_a_reply_queue_that_is_deleted_is_replaced(
    private_broker: RabbitNode, scheduler: StandIn, client: Client
) -> None:
    handle = client.submit("never")
    eventually(lambda: bool(scheduler.reply_queues))
    (queue,) = scheduler.reply_queues
    private_broker.eval(
        f'{{ok, Q}} = rabbit_amqqueue:lookup({{resource, <<"/">>, queue, <<"{queue}">>}}),'
        ' rabbit_amqqueue:delete(Q, false, false, <<"test">>).'
    )
    eventually(lambda: any(handle.id in ask.ids for ask in scheduler.asked))
    scheduler.finish(handle.id, 1)

    assert handle.result(timeout=4) == 1


def test_ctrl_c_ends_a_wait(scheduler: StandIn, client: Client) -> None:
    handle = client.submit("never")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        handle.result(timeout=20)
    timer.join()

    assert time.monotonic() - started < 5
    assert client.submit("add", 1).result(5) == 1

"""Where running tasks are: coroutines, threads and processes, also when they are stuck; and the watchdog."""

import itertools
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from common.options import Policy
from common.wire import Assignment, ControlVerb, Isolation
from deploy.local import Broker
from tests.support import worker_tasks
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, worker_settings
from worker_service.events import Slow

FILE = "tests/support/worker_tasks.py"


@pytest.fixture
def gate() -> Iterator[str]:
    """The name of a gate that waiting task functions wait for; open at the end in any case."""
    worker_tasks.gates["gate"] = threading.Event()
    worker_tasks.arrived.clear()
    yield "gate"
    worker_tasks.gates["gate"].set()


async def stacks_of(scheduler: StandInScheduler, running: RunningWorker) -> dict[str, dict[str, Any]]:
    await scheduler.until(lambda: running.worker.control.consuming)
    answer = await scheduler.command(running.worker.id, ControlVerb.STACKS)
    assert not answer.error, answer.error
    data = json.loads(bytes(answer.data))
    assert not data["cut"]
    return {each["id"]: each for each in data["tasks"]}


async def runs(scheduler: StandInScheduler, running: RunningWorker, *work: Assignment) -> None:
    await scheduler.send(*work)
    await scheduler.until(lambda: running.worker.executor.running == len(work), what="them to run")


def said(stack: dict[str, Any]) -> str:
    return "\n".join(stack["stack"])


async def test_each_running_task_says_where_it_is(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0, slots=4)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        coroutine, thread = assignment("wait_for", gate), assignment("plain_wait_for", gate)
        nested = assignment("nested_wait_for", gate)
        nested.attempt = 3
        await runs(scheduler, running, coroutine, thread, nested)
        await scheduler.until(lambda: len(worker_tasks.arrived) == 5, what="their own code, nested ones three times")
        stacks = await stacks_of(scheduler, running)
        assert len(stacks) == 3
        first = stacks[coroutine.id]
        assert (first["task"], first["queue"], first["attempt"], first["runtime"]) == (
            "wait_for", "default", 1, "coroutine",
        )  # fmt: skip
        assert 0.0 <= first["age"] < 60.0
        assert f"{FILE}:" in first["stack"][0]
        assert "in wait_for: await asyncio.sleep(0.005)" in first["stack"][0]
        assert "in sleep" in first["stack"][1]
        second = stacks[thread.id]
        assert second["runtime"] == "thread"
        assert "in plain_wait_for: gates[gate].wait(30.0)" in second["stack"][0]
        assert "threading.py" in second["stack"][-1]
        assert not any("worker_service" in line for each in stacks.values() for line in each["stack"])
        third = stacks[nested.id]
        assert third["attempt"] == 3
        text = said(third)
        assert text.count("in _deepest: await asyncio.sleep(0.005)") == 3, text
        assert "awaits task 'in the group'" in text
        assert "awaits task 'shielded'" in text


@pytest.mark.parametrize(
    ("name", "seconds", "where", "line"),
    [
        ("process_sleep", 600.0, "in process_sleep", "await asyncio.sleep(seconds)"),
        ("process_block_for", 600.0, "in process_block_for", "time.sleep(seconds)"),
        ("process_in_c", 60.0, "in process_in_c", "re.match"),
        ("sleep_in_c", 600.0, "in sleep_in_c", "time.sleep(seconds)"),
    ],
)
@pytest.mark.parametrize("isolation", [Isolation.NONE, Isolation.CHILD])
async def test_a_process_says_where_it_is_also_while_c_code_blocks(
    broker: Broker, namespace: str, name: str, seconds: float, where: str, line: str, isolation: Isolation
) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=0.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        work = assignment(name, seconds, isolation=isolation)
        await runs(scheduler, running, work)
        for _ in range(2):  # asking does not end it
            found: dict[str, Any] = {}
            deadline = time.monotonic() + 20.0
            while time.monotonic() < deadline and where not in said(
                found.get(work.id, {"stack": []})
            ):  # it may still be on its way there
                found = await stacks_of(scheduler, running)
            stack = found[work.id]
            assert any(where in each and line in each for each in stack["stack"]), stack
            assert stack["runtime"] == ("process" if isolation is Isolation.NONE else "child")
            assert not any("worker_service" in each for each in stack["stack"])
        assert not scheduler.final(work)


async def test_a_task_that_blocks_the_event_loop_shows_itself_and_the_others(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        waits, blocks = assignment("sleep", 2.0), assignment("block_for", 3.0)
        await runs(scheduler, running, waits, blocks)
        await scheduler.until(lambda: running.worker.coroutines.lag > 0.2, what="the loop to be blocked")
        stacks = await stacks_of(scheduler, running)
        assert stacks[blocks.id]["stack"][-1].endswith(
            "in block_for: time.sleep(seconds)  # noqa: ASYNC251 - that is the point"
        )
        assert "in sleep: await asyncio.sleep(seconds)" in stacks[waits.id]["stack"][0]


async def test_what_was_given_up_is_shown_as_that(broker: Broker, namespace: str, gate: str) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0, timeout_grace=0.05)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        work = assignment("stubborn", gate, policy=Policy(hard_timeout=1.0))
        await scheduler.send(work)
        await scheduler.outcome(work)
        stack = (await stacks_of(scheduler, running))[work.id]
        assert stack["given_up"]
        assert "in stubborn" in said(stack)
        assert running.worker.executor.running == 0


async def test_the_watchdog_names_what_runs_far_too_long(
    broker: Broker, namespace: str, gate: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=1.0, slow_after=0.2, slow_factor=10.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings) as running:
        slow: list[Slow] = []
        running.worker.telemetry.on(Slow, slow.append)
        # Ten times half a second is the usual time of one of them, a moment that of the other.
        for usual in (assignment("sleep", 0.5), assignment("sleep", 0.0), assignment("add", 1, 2)):
            await scheduler.send(usual)
            await scheduler.outcome(usual)
        worker_tasks.gates[gate].set()
        quick = assignment("wait_for", gate)
        await scheduler.send(quick)
        await scheduler.outcome(quick)
        worker_tasks.gates[gate].clear()
        normal, hangs = assignment("sleep", 2.0), assignment("wait_for", gate)
        with caplog.at_level(logging.WARNING, logger="worker_service.watchdog"):
            await runs(scheduler, running, normal, hangs)

            def lines() -> list[Any]:
                return [each for each in caplog.records if each.name == "worker_service.watchdog"]

            await scheduler.until(lambda: len(lines()) >= 3, what="three lines")
        assert {each.task_id for each in lines()} == {hangs.id}
        ages = [each.seconds for each in lines()]
        assert all(later >= 1.8 * before for before, later in itertools.pairwise(ages)), ages
        assert "in wait_for: await asyncio.sleep(0.005)" in lines()[0].stack
        assert lines()[0].usual_seconds < 0.2
        assert slow == [Slow("default", "wait_for")], "counted once"

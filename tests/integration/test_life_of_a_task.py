"""Client, scheduler and worker, all of them real: what is said about a task, from the submission to its end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common import AsyncClient, Backoff, TaskCancelled, TaskFailed
from common.wire import ErrorKind
from deploy.local import Broker
from tests.support import worker_tasks
from tests.support.running_scheduler import RunningScheduler
from tests.support.stand_in_scheduler import RunningWorker, worker_settings
from tests.support.waiting import eventually

SOON = Backoff(base=0.05, jitter=False)


@pytest.fixture
async def worker(broker: Broker, namespace: str, scheduler: RunningScheduler) -> AsyncIterator[RunningWorker]:
    """A worker of that scheduler."""
    settings = worker_settings(broker.url, namespace, beat_interval=0.1, processes=2)
    async with RunningWorker(settings) as running:
        yield running


@pytest.fixture
async def client(broker: Broker, namespace: str, worker: RunningWorker) -> AsyncIterator[AsyncClient]:
    """A client of that scheduler."""
    async with AsyncClient(broker.url, namespace=namespace) as connected:
        yield connected


@pytest.mark.parametrize("name", ["count_on_loop", "count_in_thread", "count_in_process"])
async def test_a_failed_task_is_run_again_as_often_as_it_says(client: AsyncClient, name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    chosen = client.options(retries=3, backoff=SOON, retry_on=ValueError)
    assert await (await chosen.submit(name, str(log), 3)).result(timeout=30) == 3
    assert log.read_text().split() == ["1", "2", "3"]
    log.unlink()
    handle = await chosen.submit(name, str(log), 9)
    with pytest.raises(TaskFailed) as raised:
        await handle.result(timeout=30)
    assert (raised.value.kind, raised.value.type) == (ErrorKind.EXCEPTION, "ValueError")
    assert log.read_text().split() == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["hang_on_loop", "hang_in_thread", "hang_in_process"])
async def test_a_task_that_takes_too_long_times_out(client: AsyncClient, name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    handle = await client.options(timeout=0.2, hard_timeout=5, retries=1, backoff=SOON).submit(name, str(log))
    with pytest.raises(TaskFailed) as raised:
        await handle.result(timeout=30)
    assert raised.value.kind == ErrorKind.TIMEOUT
    assert log.read_text().split() == ["TaskTimeout", "TaskTimeout"]


@pytest.mark.parametrize("name", ["hang_on_loop", "until_cancelled", "hang_in_process"])
async def test_a_running_task_is_cancelled(
    client: AsyncClient, worker: RunningWorker, scheduler: RunningScheduler, name: str, tmp_path: Path
) -> None:
    handle = await client.submit(name, str(tmp_path / "log"))
    await eventually(lambda: worker.worker.executor.running == 1)
    assert await handle.cancel() == "cancelled"
    with pytest.raises(TaskCancelled):
        await handle.result(timeout=10)
    await eventually(lambda: worker.worker.executor.running == 0)
    await eventually(lambda: not scheduler.scheduler._flights.by_lease)
    assert await (await client.submit(worker_tasks.add, 1, 2)).result(timeout=10) == 3


@pytest.mark.parametrize("name", ["report_on_loop", "report_in_thread", "report_in_process"])
async def test_progress_arrives(client: AsyncClient, name: str) -> None:
    handle = await client.submit(name, 200, 2.0)
    seen: list[float] = []
    while not seen or seen[-1] < 50:
        progress = (await handle.status()).progress
        if progress is not None:
            assert progress.total == 200
            seen.append(progress.done)
        await asyncio.sleep(0.05)
    assert seen == sorted(seen)
    await handle.result(timeout=10)


@pytest.mark.parametrize("name", ["submit_on_loop", "submit_in_thread", "submit_in_process"])
async def test_children_are_run_and_know_their_parent(client: AsyncClient, name: str) -> None:
    parent = await client.submit(name, 3)
    ids = await parent.result(timeout=20)
    children = [client.handle(each) for each in ids]
    assert [await child.result(timeout=20) for child in children] == [1, 2, 3]
    assert [(await child.status()).parent for child in children] == [parent.id] * 3


async def test_a_task_that_dies_of_memory_says_so(client: AsyncClient) -> None:
    handle = await client.options(memory_limit=64 * 1024 * 1024).submit("grow", 300)
    with pytest.raises(TaskFailed, match="it took more than its memory_limit of 64 MiB"):
        await handle.result(timeout=20)

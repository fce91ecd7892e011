"""Suspects, each in a process of its own: its death is the verdict, and nobody else's."""

import os
import time
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.wire import ErrorKind, Isolation, OutcomeKind
from deploy.local import Broker
from tests.support.stand_in_scheduler import RunningWorker, StandInScheduler, assignment, worker_settings

CHILD = Isolation.CHILD


@pytest.mark.parametrize("task", ["die", "plain_die"])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("kill", "killed by SIGKILL"),
        ("segfault", "killed by SIGSEGV"),
        ("exit", "exit code 0 without a result"),
        ("parent", "it killed the process that forks children"),
    ],
)
async def test_the_death_of_a_suspect_is_its_outcome(
    broker: Broker, namespace: str, task: str, how: str, says: str
) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        suspect, neighbour = assignment(task, how, isolation=CHILD), assignment("add", 1, 2)
        await scheduler.send(suspect, neighbour)
        outcome = await scheduler.outcome(suspect)
        assert outcome.kind is OutcomeKind.FAILED
        assert outcome.error is not None
        assert outcome.error.kind is ErrorKind.CRASHED
        assert outcome.error.message.startswith(says)
        assert (await scheduler.outcome(neighbour)).kind is OutcomeKind.SUCCEEDED
        again = assignment("add", 3, 4, isolation=CHILD)
        await scheduler.send(again)
        assert (await scheduler.outcome(again)).kind is OutcomeKind.SUCCEEDED


async def test_innocent_suspects_end_like_any_task(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        good = [assignment("add", 1, 2, isolation=CHILD), assignment("plain_add", 1, 2, isolation=CHILD)]
        large = assignment("give", "medium", isolation=CHILD)
        fails = assignment("fail", "on purpose", isolation=CHILD)
        exits = assignment("plain_raise_base", "SystemExit", isolation=CHILD)
        wrong = assignment("add", 1, isolation=CHILD)
        for each in (*good, large, fails, exits, wrong):
            await scheduler.send(each)
        for each in good:
            assert bytes((await scheduler.outcome(each)).result) == b"3"
        assert len(bytes((await scheduler.outcome(large)).result)) == 100_002
        errors = [(await scheduler.outcome(each)).error for each in (fails, exits, wrong)]
        assert [error.type for error in errors if error] == ["ValueError", "SystemExit", "BadArguments"]


async def test_only_the_one_that_kills_the_forking_process_is_blamed(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        innocent = [assignment("sleep", 0.5, isolation=CHILD), assignment("plain_sleep", 0.5, isolation=CHILD)]
        guilty = assignment("die", "parent", isolation=CHILD)
        await scheduler.send(*innocent, guilty)
        error = (await scheduler.outcome(guilty)).error
        assert error is not None
        assert error.kind is ErrorKind.CRASHED
        for each in innocent:
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED


async def test_a_child_has_the_users_environment_and_neither_warrens_secrets_nor_its_connections(
    broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARREN_AMQP_URL", "amqp://canary")
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgres://shop")
    settings = worker_settings(broker.url, namespace)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = assignment("describe_process", isolation=CHILD)
        await scheduler.send(work)
        text = bytes((await scheduler.outcome(work)).result).decode()
        assert "canary" not in text
        assert "WARREN_AMQP_URL" not in text
        assert "SHOP_DATABASE_URL=postgres://shop" in text
        assert '"sockets":2' in text, "those for its own result and for where it is, and nothing else"


async def test_suspects_are_quick(broker: Broker, namespace: str) -> None:
    settings = worker_settings(broker.url, namespace, slots=10, queue_patience=60.0)
    async with StandInScheduler(broker.url, namespace) as scheduler, RunningWorker(settings):
        work = [assignment("add", number, 0, isolation=CHILD) for number in range(100)]
        started = time.monotonic()
        for each in work:
            await scheduler.send(each)
        for each in work:
            assert (await scheduler.outcome(each)).kind is OutcomeKind.SUCCEEDED
        assert time.monotonic() - started < 6.0


async def test_children_die_with_their_worker(broker: Broker, namespace: str, tmp_path: Path) -> None:
    settings = worker_settings(broker.url, namespace, drain_timeout=0.1)
    async with StandInScheduler(broker.url, namespace) as scheduler:
        running = RunningWorker(settings)
        await running.__aenter__()
        before = _children()
        work = assignment("plain_sleep", 600.0, isolation=CHILD)
        await scheduler.send(work)
        await scheduler.until(lambda: len(_children() - before) == 1)
        (child,) = _children() - before
        running.worker.service.drain()
        assert await running.ended() == 0
        await scheduler.until(lambda: not Path(f"/proc/{child}").exists(), what="the child's end")


async def test_modules_that_need_what_is_warrens_are_refused_at_the_start(
    broker: Broker, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WARREN_WK_TOKEN", "1")
    (tmp_path / "wk_needs_environment.py").write_text(
        "import os\nfrom common import task\nos.environ['WARREN_WK_TOKEN']\n@task(name='wk.env')\ndef f(): ...\n"
    )
    settings = worker_settings(broker.url, namespace, modules=["wk_needs_environment"])
    async with StandInScheduler(broker.url, namespace):
        with pytest.raises(SettingsError, match=r"child_environment.*WARREN_WK_TOKEN"):
            await RunningWorker(settings).__aenter__()
        settings = worker_settings(
            broker.url, namespace, modules=["wk_needs_environment"], child_environment=["WARREN_WK_TOKEN"]
        )
        async with RunningWorker(settings):
            pass


def _children() -> set[int]:
    """Every process below this one."""
    found, pending = set(), [os.getpid()]
    while pending:
        try:
            children = [
                int(child)
                for task in Path(f"/proc/{pending.pop()}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
        except OSError:
            continue
        found.update(children)
        pending += children
    return found

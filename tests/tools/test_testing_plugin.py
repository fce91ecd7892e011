"""The pytest plugin, and what the harness says when it cannot work: each in a pytest run of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.services import ROOT

TASKS = """
import asyncio
import time
from common import task

@task
async def add(x: int, y: int) -> int:
    return x + y

@task
async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()

@task
async def tick_for_ever() -> None:
    while True:
        await asyncio.sleep(600)

@task
def spin() -> None:
    while True:
        time.sleep(0.01)

@task
async def block() -> None:
    time.sleep(3)
"""
HEAVY = ("aio_pika", "aiormq", "sqlalchemy", "prometheus_client", "structlog", "asyncio", "common.client.aio")


AUTO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")


def run(folder: Path, test: str, *options: str, tasks: str = TASKS) -> str:
    """Run a test of a user in a pytest of its own; what it prints."""
    (folder / "test_users.py").write_text(tasks + test)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WARREN_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-c", os.devnull, "--rootdir", ".", "-W", "error"]
    done = subprocess.run(
        [*command, *(options or ("-p", "no:asyncio"))],
        cwd=folder,
        env=environment | {"WARREN_NAMESPACE": "elsewhere", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("test", "options"),
    [
        (
            """
def test_without_a_plugin(warren_test):
    async def scenario(warren):
        return await warren.run(add, 2, 3)
    assert warren_test.play(scenario) == 5
""",
            ("-p", "no:asyncio", "-p", "no:anyio"),
        ),
        (
            """
async def test_with_pytest_asyncio(warren_test):
    async with warren_test() as warren:
        assert await warren.run(add, 2, 3) == 5
""",
            AUTO,
        ),
        (
            """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_with_anyio(warren_test):
    async with warren_test() as warren:
        handle = await warren.client.options(delay=3600).submit(add, 2, 3)
        await warren.advance(3600)
        assert await handle.result(timeout=1) == 5
""",
            ("-p", "no:asyncio"),
        ),
    ],
)
def test_the_fixture_works_with_each_way_to_run_coroutines(tmp_path: Path, test: str, options: tuple[str, ...]) -> None:
    said = run(tmp_path, test, *options)
    assert "1 passed" in said, said


@pytest.mark.parametrize("before", ["", "import scheduler_service.app, worker_service.app\n"], ids=["late", "early"])
def test_each_test_goes_by_its_own_clock_whenever_the_services_are_imported(tmp_path: Path, before: str) -> None:
    source = """
@pytest.mark.parametrize("number", range(3))
def test_a_delay(warren_test, number):
    async def scenario(warren):
        handle = await warren.client.options(delay=7200).submit(add, 2, 3)
        await warren.advance(7199)
        assert (await handle.status()).state == "scheduled"
        await warren.advance(1)
        assert await handle.result(timeout=1) == 5
    warren_test.play(scenario)
"""
    assert "3 passed" in run(tmp_path, source, tasks=f"import pytest\n{before}{TASKS}")


def test_a_year_passes_quickly(tmp_path: Path) -> None:
    source = """
def test_a_year(warren_test):
    async def scenario(warren):
        began = time.perf_counter()
        first, second = [await warren.client.options(delay=days * 86_400).submit(add, 0, days) for days in (7, 366)]
        await warren.advance(365 * 86_400)
        assert await first.result(timeout=1) == 7
        assert not second.done()
        await warren.advance(86_400)
        assert await second.result(timeout=1) == 366
        assert time.perf_counter() - began < 30
    warren_test.play(scenario)
"""
    assert "1 passed" in run(tmp_path, source)


def test_the_plugin_imports_nothing_until_the_fixture_is_used() -> None:
    program = f"import sys; import pytest; before = set(sys.modules); import common.testing.plugin; \
print([name for name in {HEAVY!r} if name in sys.modules and name not in before])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


ENTER = """
def test_{number}(warren_test):
    async def scenario(warren):
        {body}
    warren_test.play(scenario{more})
"""
CANNOT_WORK = [
    (
        "await warren.run(wait_for_ever)",
        "",
        ["'wait_for_ever' is not finished", "nothing is due", "These run: wait_for_"],
    ),
    ("await warren.run(tick_for_ever)", ", patience=0.5", ["'tick_for_ever' is not finished", "These run: tick_for_"]),
    ("await warren.run(spin)", ", patience=0.5", ["goes on for 0.5 real seconds", "These run: spin (task "]),
    ("await warren.run(block)", ", patience=0.5", ["goes on for 0.5 real seconds", "These run: block (task "]),
    ("await warren.run(add, 1, 1)", ", queues=('math',)", ["'add' is not finished", "no live worker serves the queue"]),
    ("async with warren_test(): pass", "", ["another harness is running in this process"]),
    ("async with warren: pass", "", ["this harness is running already"]),
    ("await warren.advance(-1)", "", ["the clock cannot go back"]),
    ("pass", ", settings={'broker': {}}", ["settings are for scheduler or worker, not for 'broker'"]),
]


def test_what_cannot_work_is_said_and_does_not_harm_the_next_test(tmp_path: Path) -> None:
    tests = [ENTER.format(number=number, body=body, more=more) for number, (body, more, _) in enumerate(CANNOT_WORK)]
    last = ENTER.format(number="last", body="assert await warren.run(add, 2, 3) == 5", more="")
    said = run(tmp_path, "".join(tests) + last)
    assert f"{len(CANNOT_WORK)} failed, 1 passed" in said, said
    for number, (_, _, texts) in enumerate(CANNOT_WORK):
        report = said.partition(f" test_{number} __")[2].partition(f" test_{number + 1} __")[0]
        assert [text for text in texts if text in report] == texts, report


def test_a_harness_that_was_not_left_is_told_and_the_clock_put_back(tmp_path: Path) -> None:
    test = """
REAL = time.time

def test_left(warren_test):
    from common.testing.clock import Clock
    Clock().__enter__()  # what a harness does first
    assert time.time is not REAL

def test_next():
    assert time.time is REAL
"""
    said = run(tmp_path, test)
    assert "the test has not left its WarrenTest" in said, said
    assert "2 passed, 1 error" in said, said


def test_an_event_loop_whose_clock_cannot_be_moved_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    test = """
def test_it(warren_test):
    import uvloop
    async def main():
        async with warren_test():
            pass
    uvloop.run(main())

def test_no_loop(warren_test):
    warren_test().__aenter__().send(None)
"""
    said = run(tmp_path, test)
    assert "2 failed" in said, said
    assert "the clock of the running event loop, uvloop.Loop, cannot be put forward" in said
    assert "no asyncio event loop runs here" in said


@pytest.mark.parametrize(
    ("found", "why"), [("[]", "no entry point 'scheduler'"), ("[Broken]", "No module named 'sqla")]
)
def test_services_that_are_not_installed_are_named(tmp_path: Path, found: str, why: str) -> None:
    test = f"""
class Broken:
    @staticmethod
    def load():
        raise ModuleNotFoundError("No module named 'sqlalchemy'")

def test_it(warren_test, monkeypatch):
    monkeypatch.setattr("common.testing.harness.entry_points", lambda **_: {found})
    async def scenario(warren):
        pass
    warren_test.play(scenario)
"""
    said = run(tmp_path, test)
    assert "the scheduler is not installed: " in said, said
    assert why in said
    assert "pip install 'warren[scheduler,worker]'" in said


@pytest.mark.parametrize(("page", "blocks"), [("README.md", 1), ("docs/testing.md", 2)])
def test_what_the_pages_show_is_a_test(tmp_path: Path, page: str, blocks: int) -> None:
    found = re.findall(r"^```python\n(# test_.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == blocks
    for block in found:
        said = run(tmp_path, block, *AUTO, tasks="")
        assert "1 passed" in said, said

"""Failpoints do nothing unless armed, and then exactly what they were armed with."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import failpoints
from common.errors import SettingsError
from common.failpoints import FailpointError, arm, armed, disarm, hit, reached

NAME = "intake.after_commit"


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    disarm()
    yield
    disarm()


async def test_nothing_happens_when_nothing_is_armed() -> None:
    hit(NAME)
    await reached(NAME)


async def test_only_the_armed_name_fires() -> None:
    arm(f"{NAME}:raise")
    hit("intake.before_commit")
    with pytest.raises(FailpointError, match=NAME):
        hit(NAME)
    with pytest.raises(FailpointError, match=NAME):
        await reached(NAME)


def test_timeout_looks_like_any_timeout() -> None:
    arm(f"{NAME}:timeout")
    with pytest.raises(TimeoutError):
        hit(NAME)


def test_a_hit_number_fires_only_then() -> None:
    arm(f"{NAME}:raise:3")
    hit(NAME)
    hit(NAME)
    with pytest.raises(FailpointError):
        hit(NAME)
    hit(NAME)


def test_a_list_arms_several() -> None:
    arm(f" {NAME}:raise , collector.after_tell:timeout:2,")
    assert armed() == (NAME, "collector.after_tell")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("intake.after_comit:kill", "intake.after_comit"),
        (f"{NAME}:explode", "explode"),
        (NAME, "action ''"),
        (f"{NAME}:kill:0", "'0' is not a hit number"),
        (f"{NAME}:kill:x", "'x' is not a hit number"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_arms_nothing(text: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        arm(f"collector.after_tell:raise,{text}")
    assert armed() == ()


async def test_hang_blocks_a_coroutine_until_disarmed() -> None:
    arm(f"{NAME}:hang")
    waiting = asyncio.create_task(reached(NAME))
    done, _ = await asyncio.wait((waiting,), timeout=0.1)
    assert not done
    disarm()
    await asyncio.wait_for(waiting, 5)


def test_hang_blocks_a_thread_until_disarmed() -> None:
    arm(f"{NAME}:hang")
    thread = threading.Thread(target=hit, args=(NAME,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    disarm()
    thread.join(5)
    assert not thread.is_alive()


def test_with_markers_a_failpoint_fires_once_among_all_processes(tmp_path: Path) -> None:
    arm(f"{NAME}:raise", tmp_path)
    with pytest.raises(FailpointError):
        hit(NAME)
    hit(NAME)
    arm(f"{NAME}:raise", tmp_path)  # as a process that is started again does
    hit(NAME)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def _run(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = f"import os; from common import failpoints as f; f.arm_from(os.environ); f.hit({NAME!r}); print('survived')"
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=30)


def test_kill_is_sigkill_and_the_next_process_survives_by_the_marker(tmp_path: Path) -> None:
    environ = {"WARREN_FAILPOINTS": f"{NAME}:kill", "WARREN_FAILPOINTS_ONCE": str(tmp_path)}
    assert _run(environ).returncode == -signal.SIGKILL
    assert _run(environ).stdout == "survived\n"


def test_exit_ends_the_process_without_cleaning_up() -> None:
    assert _run({"WARREN_FAILPOINTS": f"{NAME}:exit"}).returncode == 70


def test_every_name_says_which_part_and_when() -> None:
    assert len(set(failpoints.KNOWN)) == len(failpoints.KNOWN)
    assert all(name.count(".") == 1 for name in failpoints.KNOWN)

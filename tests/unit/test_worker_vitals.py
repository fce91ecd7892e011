"""What the kernel says of this process."""

import os
import subprocess
import sys

import pytest

from worker_service import vitals

MIB = 1024 * 1024


def test_memory_grows_with_what_is_taken() -> None:
    before = vitals.memory()
    held = b"x" * (100 * MIB)
    assert 95 * MIB < vitals.memory() - before < 150 * MIB
    assert len(held)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_children_and_theirs_count_but_what_they_share_counts_once() -> None:
    ballast = "held = b'x' * (60 * 1024 * 1024)"
    forks = f"import os, sys, time; {ballast}; [os.fork() == 0 and time.sleep(60) for _ in range(4)]"
    program = f"{forks}; print(flush=True); sys.stdin.read()"
    before = vitals.memory()
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = list(vitals.descendants(os.getpid()))
        assert child.pid in found
        assert len(found) >= 5
        grown = vitals.memory() - before
        assert 60 * MIB < grown < 140 * MIB, "five processes that share 60 MiB"
    finally:
        for pid in vitals.descendants(child.pid):
            os.kill(pid, 9)
        child.kill()
        child.communicate()


def test_a_process_that_is_gone_has_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert list(vitals.descendants(child.pid)) == []


def test_cores_and_load() -> None:
    assert 1 <= vitals.cores() <= (os.cpu_count() or 1)
    assert vitals.load_average() >= 0.0

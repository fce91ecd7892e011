"""`make demo`: right when all is right, wrong when a count is, and gone when it is over or interrupted."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.states import State
from deploy.demo.evidence import Runs, StoreRecord
from deploy.demo.job import Outcome
from deploy.demo.report import checks
from deploy.local import Broker
from deploy.local.processes import alive
from tests.support.conditions import wait_until

ROOT = Path(__file__).resolve().parents[2]
DEMO = ("-m", "deploy.demo", "--pace", "2")
MISCOUNTING = """
import sys
from deploy.demo import __main__, scenario
count = scenario.plain_count
scenario.plain_count = lambda files: count(files[1:])
sys.argv[1:] = ["--pace", "0"]
__main__.main()
"""


class Run:
    """One started program, and what is left of it."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.mark = f"mark-{secrets.token_hex(8)}"
        self.folder = Path(tempfile.mkdtemp(prefix="wd-"))  # short: a node's socket is below it
        self.seen: list[str] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=kept | {"TMPDIR": str(self.folder), "DEMO_MARK": self.mark} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Under `nohup` the signal would be ignored, as it should be.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def await_line(self, text: str) -> None:
        """Return once a line with this text has been printed."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line)
            if text in line:
                return
        pytest.fail(f"no line with {text!r}:\n{self.output}")

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        try:
            rest, _ = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired as error:
            said = (error.output or b"").decode(errors="replace")
            logs = "\n".join(f"--- {path}\n{_end_of(path)}" for path in sorted(self.folder.rglob("*.log")))
            pytest.fail(f"it does not end:\n{self.output}{said}\n{logs}")
        self.seen.append(rest)
        return self.process.returncode

    @property
    def output(self) -> str:
        return "".join(self.seen)

    def remains(self) -> list[str]:
        """Return the processes that it has started and the files that it has made, as far as they are still there."""
        return [*self.processes(), *(str(path) for path in self.folder.iterdir())]

    def close(self) -> None:
        """Remove what a failed test has left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[str]:
        """Return the command lines of those of its processes that still run."""
        return list(self._find_processes())

    def _find_processes(self) -> Iterator[str]:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                mine = self.mark.encode() in (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has ended, or belongs to somebody else
            if mine and alive(int(entry.name)):
                yield command


def _end_of(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-40:])


Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs, and ends those that still run after the test."""
    runs: list[Run] = []

    def start_one(*arguments: str, **environment: str) -> Run:
        runs.append(Run(arguments or DEMO, environment))
        return runs[-1]

    yield start_one
    for run in runs:
        run.close()


def _demo_names(broker: Broker) -> list[str]:
    """Return the queues of demos on a broker that can be asked."""
    return [name for name in broker.node.queue_depths() if name.startswith("demo-")] if broker.node else []


def test_runs_on_what_it_finds_and_leaves_nothing(start: Start) -> None:
    run = start()

    assert run.end() == 0, run.output
    assert len(re.findall(r"^  right ", run.output, re.MULTILINE)) == 3
    assert "WRONG" not in run.output
    assert re.search(r"SIGKILL +to worker 2", run.output)
    assert re.search(r"ran twice +\d+ of \d+ tasks, which worker 2 had begun", run.output), run.output
    assert re.search(r"warren_tasks_completed_total\{.*\} [1-9]", run.output)
    assert "\x1b" not in run.output, "no colours and cursor movements in a file"
    _assert_gone(run)


def test_leaves_a_given_broker_as_it_was(start: Start, broker: Broker) -> None:
    run = start(WARREN_AMQP_URL=broker.url)

    assert run.end() == 0, run.output
    _assert_gone(run)
    assert not _demo_names(broker)


def test_fails_when_the_counts_differ(start: Start, broker: Broker) -> None:
    run = start("-c", MISCOUNTING, WARREN_AMQP_URL=broker.url)

    assert run.end() == 1, run.output
    assert re.search(r"WRONG +[\d,]+ words, a plain count in one process finds", run.output)
    _assert_gone(run)


def test_says_what_is_wrong_with_a_broker(start: Start) -> None:
    run = start(WARREN_AMQP_URL="amqp://127.0.0.1:1/")

    assert run.end() == 1
    assert "the broker of WARREN_AMQP_URL cannot be used" in run.output
    assert "Traceback" not in run.output
    _assert_gone(run)


def test_nothing_runs_on_when_it_is_killed(start: Start) -> None:
    run = start()
    run.await_line("submitted")
    run.process.kill()
    run.end()
    wait_until(lambda: not run.processes(), 10.0, "all that it started has ended", run.processes)


@pytest.mark.parametrize(
    ("line", "signals"),
    [
        ("Looking for a broker", [signal.SIGINT]),
        ("Starting", [signal.SIGINT, signal.SIGINT]),
        ("Starting the scheduler", [signal.SIGTERM]),
        ("broker  ", [signal.SIGHUP]),
    ],
)
def test_interrupted_with_a_broker_of_its_own(line: str, signals: list[signal.Signals], start: Start) -> None:
    run = start()
    run.await_line(line)
    _interrupt(run, signals)


@pytest.mark.parametrize(
    ("line", "signals"),
    [
        ("Starting the scheduler", [signal.SIGINT]),
        ("submitted", [signal.SIGINT, signal.SIGINT]),
        ("SIGKILL", [signal.SIGTERM, signal.SIGTERM]),
        ("Was anything lost?", [signal.SIGINT]),
    ],
)
def test_interrupted_on_a_given_broker(line: str, signals: list[signal.Signals], start: Start, broker: Broker) -> None:
    run = start(WARREN_AMQP_URL=broker.url)
    run.await_line(line)
    _interrupt(run, signals)
    assert not _demo_names(broker)


def _assert_gone(run: Run) -> None:
    """What the kernel ends for us, when its parent has ended, may take a moment."""
    wait_until(lambda: not run.remains(), 3.0, "all that it started is gone", run.remains)


def _interrupt(run: Run, signals: list[signal.Signals]) -> None:
    """Send the signals and expect an orderly end."""
    for number in signals:
        run.process.send_signal(number)
    assert run.end() == 128 + signals[0], run.output
    assert "Traceback" not in run.output
    _assert_gone(run)


def test_signals_wait_where_they_must_and_come_once(start: Start) -> None:
    script = """
import os, signal, sys
from deploy.local import interrupts
def signalled():
    os.kill(os.getpid(), signal.SIGINT)
def work(stack):
    stack.callback(print, "cleared")
    stack.callback(signalled)
    with interrupts.held():
        signalled()
        signalled()
        print("noted")
    print("never")
try:
    interrupts.run(work)
except interrupts.Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""
    run = start("-c", script)

    assert run.end() == 130
    assert run.output.split() == ["noted", "cleared"]


def test_a_signal_within_a_destructor_is_not_lost(start: Start) -> None:
    script = """
import os, signal, sys, time
from deploy.local import interrupts
class Unlucky:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        print("destroyed")
def work(stack):
    Unlucky()
    time.sleep(10)
    return 0
try:
    sys.exit(interrupts.run(work))
except interrupts.Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""
    run = start("-c", script)

    assert run.end() == 143
    assert not run.output


GOOD = Outcome(["a", "b"], 0.1, Counter(x=2, y=1))
STORED = StoreRecord({"a": State.SUCCEEDED, "b": State.SUCCEEDED}, again=1)
RUNS = Runs(total=3, files=2, repeated=1, by_victim=1)


def test_checks_hold_when_all_is_well() -> None:
    assert all(check.good for check in checks(GOOD, STORED, RUNS, Counter(x=2, y=1)))


@pytest.mark.parametrize(
    ("stored", "runs", "plain"),
    [
        (StoreRecord({"a": State.SUCCEEDED, "b": State.DISPATCHED}, 0), RUNS, Counter(x=2, y=1)),
        (StoreRecord({"a": State.SUCCEEDED}, 0), RUNS, Counter(x=2, y=1)),
        (StoreRecord({"a": State.SUCCEEDED, "b": State.FAILED}, 0), RUNS, Counter(x=2, y=1)),
        (STORED, Runs(total=2, files=1, repeated=1, by_victim=1), Counter(x=2, y=1)),
        (STORED, RUNS, Counter(x=2, y=2)),
        (STORED, RUNS, Counter(x=2, y=1, z=1)),
    ],
)
def test_a_check_fails_when_something_is_wrong(stored: StoreRecord, runs: Runs, plain: Counter[str]) -> None:
    assert [check.good for check in checks(GOOD, stored, runs, plain)].count(False) == 1

"""`warren submit` with options, `cancel`, `watch`, `tasks` and `dead`, on a real broker with a stand-in scheduler."""

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import time

import msgspec
import pytest
from click.testing import CliRunner, Result

from common.client.cli import cancel, dead, status, submit, tasks, watch
from common.ids import new_task_id
from common.options import TaskOptions
from common.questions import AttemptRecord, DeadLetter, Progress
from common.wire import ErrorInfo, ErrorKind
from deploy.local import Broker
from tests.support.stand_in import StandIn, eventually


@pytest.fixture
def scheduler(broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("WARREN_AMQP_URL", broker.url)
    monkeypatch.setenv("WARREN_NAMESPACE", namespace)
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)  # type: ignore[arg-type]


def lines(done: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def submitted(*arguments: str) -> str:
    done = run(submit, *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def on_a_terminal(*arguments: str, typed: str = "", columns: int = 80) -> tuple[int, str]:
    """Run `warren` on a terminal of its own; its exit code, and what it shows."""
    keyboard, terminal = pty.openpty()
    os.write(keyboard, typed.encode())
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(keyboard, 4096):
                shown.append(data)
        except OSError:
            return  # the last one has closed the terminal

    reader = threading.Thread(target=read)
    program = Path(sys.executable).with_name("warren")
    environment = os.environ | {"COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    running = subprocess.Popen([program, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    reader.start()
    code = running.wait(30)
    reader.join(10)
    os.close(keyboard)
    return code, b"".join(shown).decode().replace("\r\n", "\n")


def test_submit_says_everything_about_a_task(scheduler: StandIn) -> None:
    one = submitted(
        "never", "--delay", "1h30m", "--expires", "7d", "--timeout", "90", "--hard-timeout", "2m", "--retries", "3",
        "--key", "anna", "--label", "a=1", "--label", "b=x=y", "--idempotency-key", "k", "--result-ttl", "1w",
    )  # fmt: skip
    two = submitted("never", "--run-at", "2030-01-01T00:00:00Z", "--expires", "@2000000000", "--unique", "u")
    eventually(lambda: len(scheduler.tasks) == 2)

    assert scheduler.tasks[one].options == TaskOptions(
        delay=5400.0, expires_in=604800.0, timeout=90.0, hard_timeout=120.0, retries=3, key="anna",
        labels={"a": "1", "b": "x=y"}, idempotency_key="k", result_ttl=604800.0,
    )  # fmt: skip
    assert scheduler.tasks[two].options == TaskOptions(run_at=1893456000.0, expires_at=2e9, unique="u")
    assert scheduler.tasks[submitted("never")].options is None


@pytest.mark.parametrize(
    "arguments",
    [["--delay", "soon"], ["--run-at", "noon"], ["--label", "a"], ["--retries", "-1"], ["--timeout", "0"],
     ["--delay", "1", "--run-at", "@5"], ["--expires", "tomorrow"]],
)  # fmt: skip
def test_wrong_options_are_exit_code_2(scheduler: StandIn, arguments: list[str]) -> None:
    done = run(submit, "add", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert not scheduler.tasks


def test_cancel_says_what_each_is_now(scheduler: StandIn) -> None:
    never, done, nobody = submitted("never"), submitted("add", "1", "--wait", "--json"), new_task_id()
    done = json.loads(done)["id"]

    shown = run(cancel, never, done, nobody)
    assert shown.exit_code == 4
    assert set(shown.stdout.splitlines()) == {f"{never}  cancelled", f"{done}  succeeded", f"{nobody}  unknown"}
    assert lines(run(cancel, never, "--json")) == [{"id": never, "state": "cancelled"}]


def test_cancel_by_filter_says_how_many(scheduler: StandIn) -> None:
    for number in range(5):
        submitted("never", "--label", f"job={number % 2}")
    assert run(cancel, "--label", "job=0").stdout == "3 cancelled\n"
    assert len(lines(run(cancel, "--all", "--json"))) == 2
    assert run(cancel, "--queue", "other").stdout == "0 cancelled\n"


@pytest.mark.parametrize("arguments", [[], ["x", "--all"], ["--all", "--queue", "q"], ["x"], ["--label", "x"]])
def test_cancel_wants_to_know_which(scheduler: StandIn, arguments: list[str]) -> None:
    assert run(cancel, *arguments).exit_code == 2


def test_cancel_asks_on_a_terminal(scheduler: StandIn) -> None:
    task_ids = [submitted("never", "--key", "k") for _ in range(3)]
    code, shown = on_a_terminal("cancel", "--key", "k", typed="n\n")
    assert (code, "Cancel 3 tasks? [y/N]" in shown) == (0, True)
    assert not scheduler.results

    code, shown = on_a_terminal("cancel", "--key", "k", typed="y\n")
    assert (code, "3 cancelled" in shown) == (0, True)
    assert scheduler.results.keys() == set(task_ids)
    assert "Cancel" not in on_a_terminal("cancel", "--key", "k", "--yes")[1]


def test_watch_shows_a_bar_and_then_how_it_ended(scheduler: StandIn) -> None:
    task_id = submitted("never")
    scheduler.progress[task_id] = Progress(45, 100, "reading")
    threading.Timer(1.5, scheduler.finish, (task_id, None)).start()
    code, shown = on_a_terminal("watch", task_id, "--interval", "0.1")

    assert code == 0
    assert "█" * 13 + "░" * 17 + "  45 %  45 of 100  reading" in shown
    assert shown.endswith("succeeded\n")
    assert max(map(len, shown.replace("\x1b[K", "").replace("\r", "\n").split("\n"))) < 80


def test_watch_without_a_terminal_writes_a_line_for_each_change(scheduler: StandIn) -> None:
    task_id = submitted("never")
    scheduler.progress[task_id] = Progress(1, 0)
    threading.Timer(1.5, scheduler.give, (task_id, None)).start()
    done = run(watch, task_id, "--interval", "0.1")
    assert (done.exit_code, done.stdout.split()) == (0, ["running", "1", "done", "succeeded"])

    assert [line["state"] for line in lines(run(watch, task_id, "--json"))] == ["succeeded"]
    failed = submitted("fail")
    assert (run(watch, failed).exit_code, run(watch, new_task_id()).exit_code) == (1, 4)
    assert "exception: ValueError: no" in run(watch, failed).stdout
    assert run(watch, submitted("never"), "--timeout", "0.2").exit_code == 3


def test_tasks_are_listed_in_a_table_of_80_columns(scheduler: StandIn) -> None:
    later = submitted("report", "--delay", "2h", "--queue", "a-queue-with-a-rather-long-name")
    failed = submitted("fail", "--label", "a=1")
    eventually(lambda: failed in scheduler.results)
    code, shown = on_a_terminal("tasks", "list")

    heading, first, second = shown.splitlines()
    assert code == 0
    assert heading.split() == ["ID", "STATE", "WHEN", "TASK", "QUEUE"]
    assert first.split()[:2] == [failed, "failed"]
    assert second.split()[:4] == [later, "scheduled", "in", "1h59m"]
    assert max(map(len, shown.splitlines())) <= 80
    assert "ValueError: no" in on_a_terminal("tasks", "list", columns=140)[1]


def test_tasks_are_filtered(scheduler: StandIn) -> None:
    first, second = submitted("never", "--label", "a=1"), submitted("add", "--key", "k")
    eventually(lambda: second in scheduler.results)
    found = {
        ("--state", "queued"): [first],
        ("--state", "queued", "--state", "succeeded"): [second, first],
        ("--task", "add"): [second],
        ("--label", "a=1"): [first],
        ("--key", "k"): [second],
        ("--since", "1h"): [second, first],
        ("--until", "1h"): [],
        ("--limit", "1"): [second],
    }
    for arguments, ids in found.items():
        assert [line["id"] for line in lines(run(tasks, "list", "--json", *arguments))] == ids
    shown = run(tasks, "list", "--limit", "1")
    assert shown.stderr == "the newest 1; --limit or --all shows more\n"
    assert run(tasks, "list", "--until", "1h").stderr == "no such tasks\n"
    assert run(tasks, "list", "--state", "asleep").exit_code == 2


def test_dead_letters_are_listed_and_shown(scheduler: StandIn) -> None:
    failed = submitted("fail", "7")
    eventually(lambda: failed in scheduler.results)
    scheduler.parked = [DeadLetter(parked=12, at=time() - 7200, origin="submit", reason="undecodable", detail="bad")]

    code, shown = on_a_terminal("dead", "list")
    assert code == 0
    assert [line.split()[0] for line in shown.splitlines()] == ["ID", failed, "ValueError:", "12", "bad"]
    assert "2h ago" in shown
    assert [line["id"] or line["parked"] for line in lines(run(dead, "list", "--json"))] == [failed, 12]
    assert len(lines(run(dead, "list", "--json", "--reason", "exception"))) == 1
    assert '"args":[7]' in run(dead, "show", failed).stdout
    assert lines(run(dead, "show", "12", "--json"))[0]["reason"] == "undecodable"
    assert run(dead, "show", "13").exit_code == 4


def test_dead_letters_are_replayed_once(scheduler: StandIn) -> None:
    failed = [submitted("fail") for _ in range(3)]
    eventually(lambda: len(scheduler.results) == 3)
    one = run(dead, "replay", failed[0])
    assert one.stdout == f"{failed[0]}  replayed as {scheduler.replays[failed[0]]}\n"

    code, shown = on_a_terminal("dead", "replay", "--task", "fail")
    assert (code, "100 %  3 of 3" in shown, shown.endswith("2 replayed, 1 had been before\n")) == (0, True, True)
    assert len(scheduler.replays) == 3
    again = lines(run(dead, "replay", "--all", "--json"))
    assert {line["id"]: line["replayed_as"] for line in again} == scheduler.replays
    assert run(dead, "replay").exit_code == 2
    assert run(dead, "replay", new_task_id()).exit_code == 4


def test_dead_letters_are_purged_after_asking(scheduler: StandIn) -> None:
    failed = [submitted("fail") for _ in range(3)]
    eventually(lambda: len(scheduler.results) == 3)
    assert on_a_terminal("dead", "purge", "--all", typed="n\n")[0] == 1
    assert len(scheduler.results) == 3
    assert run(dead, "purge", failed[0]).stdout == "1 purged\n"
    assert run(dead, "purge", "--all", "--yes").stdout == "2 purged\n"
    assert not scheduler.results


def test_status_shows_the_whole_life(scheduler: StandIn) -> None:
    task_id = submitted("never", "--key", "anna", "--label", "a=1", "--label", "b=2")
    eventually(lambda: task_id in scheduler.tasks)
    scheduler.progress[task_id] = Progress(1, 4, "reading")
    error = ErrorInfo(ErrorKind.EXCEPTION, "ValueError", "no such file", "Traceback\n  line 1")
    scheduler.attempts[task_id] = [AttemptRecord(1, time()), AttemptRecord(2, time(), "host-1", error)]
    shown = run(status, task_id).stdout

    for text in (
        f"{task_id}  running\n",
        "25 %  1 of 4  reading\n",
        "key anna\n",
        "labels a=1, b=2\n",
        "attempt 2 on host-1, ended ",
        "    exception: ValueError: no such file\n      Traceback\n        line 1\n",
        "attempt 1, ended ",
    ):
        assert text in shown
    known = msgspec.json.decode(run(status, task_id, "--json").stdout)
    assert [attempt["attempt"] for attempt in known["attempts"]] == [1, 2]


def test_without_a_scheduler_every_command_ends(
    broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARREN_AMQP_URL", broker.url)
    monkeypatch.setenv("WARREN_NAMESPACE", namespace)
    for command, *arguments in (
        (cancel, new_task_id()), (cancel, "--all"), (tasks, "list"), (dead, "list"), (dead, "replay", "--all"),
        (dead, "show", "1"), (watch, new_task_id()),
    ):  # fmt: skip
        done = run(command, *map(str, arguments), "--timeout", "0.2")
        assert done.exit_code == 3, done.output
        assert done.stderr.startswith("warren: the wait is over: no scheduler has")

"""`warren queues`, `queue`, `limit`, `workers`, `worker` and `changes`, on a real broker with a stand-in scheduler."""

import json
from collections.abc import Iterator
from time import time

import pytest
from click.testing import CliRunner, Result

from common.administration import Change, QueueReport, RunningAttempt, WorkerReport, WorkerState
from common.client.cli import changes, limit, queue, queues, verbs, workers
from common.quotas import Quota, Rate, Scope
from common.wire import Load
from deploy.local import Broker
from tests.integration.test_client_commands import on_a_terminal, submitted
from tests.support.stand_in import StandIn, eventually


@pytest.fixture
def scheduler(broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("WARREN_AMQP_URL", broker.url)
    monkeypatch.setenv("WARREN_NAMESPACE", namespace)
    monkeypatch.setenv("NO_COLOR", "1")
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)  # type: ignore[arg-type]


def lines(done: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


EMAIL = QueueReport(
    "email", 12_345, 3, 10, 40, 0, 75.0, 20.0, 19.5, 633.1, 2, 50, 3, 60,
    quota=Quota(scope=Scope.QUEUE, name="email", weight=3.0, rate=Rate(100, 1.0), concurrency=20, ageing=60.0),
)  # fmt: skip
IMAGES = QueueReport(
    "images-of-a-rather-long-name", 5, unrunnable=5, oldest=90.0, recommended_workers=1,
    note="no live worker serves the queue 'images-of-a-rather-long-name', and this goes on for quite a while",
)  # fmt: skip


def test_queues_are_a_table_of_80_columns(scheduler: StandIn) -> None:
    scheduler.administered.queues = [EMAIL, IMAGES, QueueReport("idle", workers=1, slots=4)]
    code, shown = on_a_terminal("queues")
    heading, email, images, why, idle = shown.splitlines()
    assert code == 0
    names = "QUEUE QUEUED LATER SENT RUNNING OLDEST IN/S DONE/S DRAIN WORKERS"
    assert " ".join(heading.split()) == names
    assert email.split() == ["email", "12,345", "3", "10", "40", "1m15s", "20", "20", "10m", "2/3"]
    assert images.split()[1:] == ["5", "0", "0", "0", "1m30s", "0", "0", "never", "0/1"]
    assert why.startswith("  no live worker serves the queue")
    assert idle.split() == ["idle", "0", "0", "0", "0", "-", "0", "0", "-", "1/0"]
    assert max(map(len, shown.splitlines())) <= 80
    assert len({line.rindex("/") for line in (email, images, idle)}) == 1, "numbers end at the same place"


def test_queues_are_json_for_programs(scheduler: StandIn) -> None:
    scheduler.administered.queues = [EMAIL, IMAGES]
    first, second = lines(run(queues, "--json"))
    assert (first["name"], first["queued"], first["drain_seconds"]) == ("email", 12_345, 633.1)
    assert (second["drain_seconds"], second["quota"]) == (None, None)
    assert [line["name"] for line in lines(run(queues, "email", "--json"))] == ["email"]
    assert run(queues, "other").stderr == "no such queues\n"


def test_one_queue_is_shown_whole(scheduler: StandIn) -> None:
    scheduler.administered.queues = [EMAIL, IMAGES]
    shown = run(queue, "show", "email").stdout
    for text in (
        "12,345 queued, 3 scheduled, 10 dispatched, 40 running\n",
        "has waited for 1m15s\n",
        "20/s in, 20/s done\n",
        "in 10m, as it is now\n",
        "2 with 50 slots; 3 recommended\n",
        "weight 3, at most 100/s, at most 20 at a time, a step of priority for 60 s of waiting\n",
    ):
        assert text in shown
    assert "5 of the queued can be run by no live worker" in run(queue, "show", IMAGES.name).stdout
    assert json.loads(run(queue, "show", "email", "--json").stdout)["window"] == 60
    assert run(queue, "show", "other").exit_code == 4


def test_a_queue_is_set_paused_and_resumed(scheduler: StandIn) -> None:
    done = run(queue, "set", "email", "--weight", "3", "--rate", "100/s", "--concurrency", "20", "--ageing", "1m")
    assert done.stdout == (
        "queue email: weight 3, at most 100/s, at most 20 at a time, a step of priority for 60 s of waiting\n"
    )
    assert run(queue, "set", "email", "--rate", "none", "--ageing", "none").stdout == (
        "queue email: weight 3, at most 20 at a time\n"
    )
    assert run(queue, "pause", "email").stdout == "queue email: weight 3, paused, at most 20 at a time\n"
    assert not lines(run(queue, "resume", "email", "--json"))[0]["paused"]


def test_a_queue_that_nothing_names_is_hinted_at(scheduler: StandIn) -> None:
    scheduler.administered.unknown = {"emial"}
    hint = "no task and no worker names the queue 'emial' so far; the setting is kept for its first task\n"
    for done in (run(queue, "pause", "emial"), run(limit, "set", "--queue", "emial", "--rate", "9/s")):
        assert (done.exit_code, done.stderr) == (0, hint)
    assert run(queue, "pause", "email").stderr == ""
    assert [lines(run(queue, "pause", name, "--json"))[0]["known"] for name in ("email", "emial")] == [True, False]


def test_limits_of_tasks_and_keys(scheduler: StandIn) -> None:
    assert run(limit, "set", "--key", "anna", "--weight", "2").stdout == "key anna: weight 2\n"
    assert (
        run(limit, "set", "--task", "mail.send", "--rate", "90/m").stdout == "task mail.send: weight 1, at most 90/m\n"
    )
    run(limit, "set", "--queue", "email", "--pause")
    heading, *rows = run(limit, "list").stdout.splitlines()
    assert heading.split() == ["OF", "NAME", "WEIGHT", "RATE", "CONCURRENCY", "AGEING"]
    assert [row.split() for row in rows] == [
        ["key", "anna", "2"], ["task", "mail.send", "1", "90/m"], ["queue", "email", "1", "paused"],
    ]  # fmt: skip
    assert [line["name"] for line in lines(run(limit, "list", "--key", "anna", "--json"))] == ["anna"]
    assert run(limit, "list", "--task", "other").stderr == "no limits were set\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["set", "--weight", "2"], "say whose limits"),
        (["set", "--key", "a", "--task", "b", "--weight", "2"], "say whose limits"),
        (["set", "--key", "a"], "say what is to be changed"),
        (["set", "--key", "a", "--rate", "fast"], "'fast' is not a rate: write the number and the span"),
        (["set", "--key", "a", "--concurrency", "0"], "not a number from 1 to 1,000,000; or none"),
        (["set", "--queue", "a", "--ageing", "0"], "no span of time"),
        (["set", "--task", "a", "--weight", "2"], "a task function has no weight"),
        (["set", "--key", "a", "--weight", "nan"], "nan is no weight"),
    ],
)
def test_wrong_limits_are_exit_code_2(scheduler: StandIn, arguments: list[str], why: str) -> None:
    done = run(limit, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert why in " ".join(done.stderr.split())
    assert not scheduler.administered.quotas


def test_who_is_no_operator_is_told_so(scheduler: StandIn) -> None:
    scheduler.administered.forbidden, scheduler.administered.answers = True, {"w1": b"{}"}
    for done in (run(queue, "pause", "email"), run(verbs["drain"])):
        assert (done.exit_code, done.stderr) == (6, "warren: only operators may do this\n")
    assert "only operators" in run(verbs["drain"], "--json").stdout


def test_a_queue_is_purged_after_asking(scheduler: StandIn) -> None:
    task_ids = [submitted("never", "--queue", "email") for _ in range(3)]
    scheduler.administered.queues = [QueueReport("email", 2, 1)]
    assert run(queue, "purge", "email").exit_code == 2, "nobody can be asked, and nobody has said --yes"
    code, shown = on_a_terminal("queue", "purge", "email", typed="n\n")
    assert (code, "Cancel 3 tasks of the queue email? [y/N]" in shown) == (1, True)
    assert not scheduler.results
    assert "3 cancelled" in on_a_terminal("queue", "purge", "email", typed="y\n")[1]
    assert scheduler.results.keys() == set(task_ids)
    assert lines(run(queue, "purge", "email", "--yes", "--json")) == [{"queue": "email", "cancelled": 0}]


def test_what_waits_is_moved_and_reprioritised(scheduler: StandIn) -> None:
    ours = submitted("never", "--queue", "email", "--key", "anna")
    others = submitted("never", "--queue", "email")
    eventually(lambda: len(scheduler.tasks) == 2)
    assert run(queue, "move", "email", "bulk", "--key", "anna").stdout == "1 moved to bulk\n"
    assert [scheduler.tasks[each].queue for each in (ours, others)] == ["bulk", "email"]
    assert lines(run(queue, "reprioritise", "email", "9", "--json")) == [
        {"queue": "email", "priority": 9, "changed": 1}
    ]
    assert scheduler.tasks[others].priority == 9
    assert run(queue, "reprioritise", "email", "10").exit_code == 2
    assert "no room for one more queue" in run(queue, "move", "email", "nowhere").stderr


def test_workers_are_a_table_of_80_columns(scheduler: StandIn) -> None:
    load = Load(1.26, 4, 300 * 2**20, 0.012, "memory: 300 MB of 256 MB")
    attempt = RunningAttempt("l", 75.0, "0193b0de-7c00-7000-8000-000000000001", "mail.send", "email", 2)
    scheduler.administered.workers = [
        WorkerReport("host-4711-2f9c", WorkerState.ALIVE, 0.31, "host", 4711, "0.1.0", time() - 3600,
                     ["default", "email"], ["gpu"], [], 20, 50, 4, 0, [attempt], load),
        WorkerReport("host-4712-77aa", WorkerState.LOST, 95.0, queues=["default"], slots=50),
    ]  # fmt: skip
    code, shown = on_a_terminal("workers")
    heading, alive, lowered, lost = shown.splitlines()
    assert code == 0
    assert heading.split() == ["WORKER", "STATE", "BUSY", "LOAD", "MEMORY", "LAG", "HEARD", "QUEUES"]
    assert alive.split()[:7] == ["host-4711-2f9c", "alive", "1/20", "1.3/4", "300M", "12ms", "0.3s"]
    assert lowered == "  20 of 50 slots: memory: 300 MB of 256 MB"
    assert lost.split() == ["host-4712-77aa", "lost", "-", "0ms", "1m35s", "default"]
    assert max(map(len, shown.splitlines())) <= 80
    shown = run(workers, "--running").stdout
    assert "version 0.1.0, pid 4711, started 1h ago" in shown or "started 59m ago" in shown
    assert f" 1m15s  {attempt.id}  mail.send, attempt 2\n" in shown
    assert [line["state"] for line in lines(run(workers, "--json"))] == ["alive", "lost"]


def test_many_workers_are_summed_up(scheduler: StandIn) -> None:
    attempt = RunningAttempt("l", 75.0)
    scheduler.administered.workers = [
        WorkerReport(f"host-{number}", WorkerState.ALIVE, 0.3, slots=50, running=[attempt] * 2, busy=40)
        for number in range(200)
    ]
    scheduler.administered.workers[7].state = WorkerState.LOST
    code, shown = on_a_terminal("workers")
    assert code == 0
    assert len(shown.splitlines()) == 202
    assert shown.splitlines()[1].split()[2] == "40/50"
    assert shown.splitlines()[-1] == "200 workers: 199 alive, 1 lost; 7,960 of 9,950 slots busy"
    assert run(workers, "--running").stdout.splitlines()[4] == "          and 38 more, which have run for less long"


def test_colours_are_for_terminals(scheduler: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler.administered.workers = [WorkerReport("w1", WorkerState.LOST, 1.0, slots=5)]
    assert "\x1b[" not in on_a_terminal("workers")[1]
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[31mlost\x1b[0m" in on_a_terminal("workers")[1]
    assert "\x1b[" not in run(workers).stdout


def test_workers_do_what_they_are_told(scheduler: StandIn) -> None:
    scheduler.administered.answers = {"host-1": b'{"pid":1}', "host-2": b'{"pid":2}'}
    done = run(verbs["ping"], "host-1")
    assert (done.exit_code, done.stdout) == (0, "host-1    2 ms  pid 1\n")
    assert len(lines(run(verbs["stats"], "--json"))) == 2
    assert run(verbs["slots"], "20", "host-").exit_code == 0
    assert run(verbs["log-level"], "debug").exit_code == 0
    given = list(scheduler.administered.commands.values())
    assert [(each.verb, each.workers, each.slots, each.level) for each in given[2:]] == [
        ("slots", ["host-"], 20, ""), ("log-level", None, None, "DEBUG"),
    ]  # fmt: skip
    assert "no live worker's id begins" in run(verbs["ping"], "elsewhere").stderr


def test_all_workers_are_shut_down_after_asking(scheduler: StandIn) -> None:
    scheduler.administered.answers = {"host-1": b'{"pid":1}'}
    assert run(verbs["shutdown"]).exit_code == 2, "nobody can be asked, and nobody has said --yes"
    code, shown = on_a_terminal("worker", "shutdown", typed="n\n")
    assert (code, "Shut down all workers? [y/N]" in shown) == (1, True)
    assert not scheduler.administered.commands
    assert run(verbs["shutdown"], "host-1").exit_code == run(verbs["shutdown"], "--yes").exit_code == 0
    assert [each.workers for each in scheduler.administered.commands.values()] == [["host-1"], None]


def test_who_does_not_answer_or_cannot_is_shown(scheduler: StandIn) -> None:
    scheduler.administered.answers = {"host-1": b"{}", "host-2": None}
    done = run(verbs["slots"], "20", "--within", "0.5")
    assert done.exit_code == 3
    assert done.stdout.splitlines()[1].split() == ["host-2", "no", "answer", "within", "0.5", "s"]
    assert lines(run(verbs["ping"], "--json"))[1] == {"worker": "host-2", "error": "no answer"}
    done = run(verbs["slots"], "20", "host-1")
    assert (done.exit_code, done.stdout.split()[-1]) == (1, "cannot")


def test_stacks_are_read_as_text(scheduler: StandIn) -> None:
    stack = {
        "tasks": [
            {"id": "0193b0de", "task": "crawl", "queue": "default", "attempt": 2, "age": 75.2, "runtime": "coroutine",
             "given_up": False, "stack": ["tasks.py:12 in crawl", "  http.py:3 in get"]},
        ],
        "cut": False,
    }  # fmt: skip
    scheduler.administered.answers = {"host-1": json.dumps(stack).encode()}
    assert run(verbs["stacks"]).stdout == (
        "host-1    2 ms  1 running\n"
        "  0193b0de  crawl, coroutine, for 1m15s, attempt 2\n"
        "      tasks.py:12 in crawl\n"
        "        http.py:3 in get\n"
    )


def test_stats_are_read_as_text(scheduler: StandIn) -> None:
    stats = {"uptime": 61.5, "running": 2, "paused": False, "returned": {"busy": 3}, "functions": {
        "add": {"succeeded": 5, "failed": 0, "run_seconds": 0.25}, "mul": {"succeeded": 0}}}  # fmt: skip
    scheduler.administered.answers = {"host-1": json.dumps(stats).encode()}
    assert run(verbs["stats"]).stdout.splitlines()[1:] == [
        "  uptime     61.5",
        "  running    2",
        "  paused     no",
        "  returned   busy 3",
        "  functions  add: succeeded 5, run seconds 0.25",
        "             mul: -",
    ]


def test_changes_are_a_table(scheduler: StandIn) -> None:
    scheduler.administered.changes = [
        Change(time(), "anna", "quota", "email", "queue: rate none -> 90/m, weight 1 -> 3, and a lot more than fits"),
        Change(time() - 7230, "ops", "command", "", "drain to 2 workers"),
    ]
    code, shown = on_a_terminal("changes")
    assert (code, max(map(len, shown.splitlines())) <= 80) == (0, True)
    assert shown.splitlines()[2].startswith("  queue: rate none -> 90/m"), "what does not fit beside goes below"
    assert shown.splitlines()[3].split() == ["2h", "ago", "ops", "command"]
    assert len(run(changes).stdout.splitlines()) == 3
    assert [line["user"] for line in lines(run(changes, "--limit", "1", "--json"))] == ["anna"]
    scheduler.administered.changes = []
    assert run(changes).stderr == "nothing was changed\n"


def test_without_a_scheduler_every_command_ends(
    broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARREN_AMQP_URL", broker.url)
    monkeypatch.setenv("WARREN_NAMESPACE", namespace)
    for command, *arguments in (
        (queues,), (workers,), (changes,), (limit, "list"), (limit, "set", "--key", "a", "--weight", "2"),
        (queue, "show", "a"), (queue, "pause", "a"), (queue, "purge", "a", "--yes"), (queue, "move", "a", "b"),
        (queue, "reprioritise", "a", "1"), (verbs["ping"],),
    ):  # fmt: skip
        done = run(command, *map(str, arguments), "--timeout", "0.2")
        assert done.exit_code == 3, done.output
        assert done.stderr.startswith("warren: the wait is over: no scheduler has")

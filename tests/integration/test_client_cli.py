"""`warren submit`, `status` and `result` against a real broker, with a stand-in for the scheduler."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from common.client.cli import result, status, submit
from common.errors import SettingsError
from common.ids import new_task_id
from deploy.local import Broker
from tests.support.stand_in import StandIn


@pytest.fixture
def scheduler(broker: Broker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("WARREN_AMQP_URL", broker.url)
    monkeypatch.setenv("WARREN_NAMESPACE", namespace)
    with StandIn(broker.url, namespace) as stand_in:
        yield stand_in


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)  # type: ignore[arg-type]


def test_submit_and_wait(scheduler: StandIn) -> None:
    done = run(submit, "add", "2", "3", "--wait", "--wait-timeout", "5")
    assert (done.exit_code, done.output) == (0, "5\n")


def test_submit_then_ask_for_result_and_status(scheduler: StandIn) -> None:
    task_id = run(submit, "add", "2").output.strip()

    assert run(result, task_id, "--timeout", "5").output == "2\n"
    assert json.loads(run(result, task_id, "--json").output) == {"id": task_id, "state": "succeeded", "result": 2}
    assert run(status, task_id).output.startswith(f"{task_id}  succeeded\n")
    assert json.loads(run(status, task_id, "--json").output)["state"] == "succeeded"


def test_arguments_are_json_where_they_are_json(scheduler: StandIn) -> None:
    done = run(
        submit, "echo", "1", '"1"', "one", '{"a": [null]}', "007", "--kwargs", '{"x": 1}', "--queue", "mail",
        "--priority", "7", "--wait", "--json",
    )  # fmt: skip

    assert json.loads(done.output)["result"] == {
        "args": [1, "1", "one", {"a": [None]}, "007"],
        "kwargs": {"x": 1},
        "queue": "mail",
        "priority": 7,
    }


def test_dashes_after_two_dashes_are_arguments(scheduler: StandIn) -> None:
    assert run(submit, "--wait", "add", "--", "-1", "-2").output == "-3\n"


def test_text_is_printed_as_it_is(scheduler: StandIn) -> None:
    task_id = run(submit, "never").output.strip()
    scheduler.finish(task_id, "läuft\n")
    assert run(result, task_id).output == "läuft\n\n"


@pytest.mark.parametrize(("name", "state"), [("fail", "failed"), ("cancelled", "cancelled"), ("expired", "expired")])
def test_a_task_that_does_not_succeed_is_exit_code_1(scheduler: StandIn, name: str, state: str) -> None:
    shown, machine = run(submit, name, "--wait"), run(submit, name, "--wait", "--json")

    assert (shown.exit_code, machine.exit_code) == (1, 1)
    assert shown.stderr.startswith("warren: task ")
    assert json.loads(machine.stdout)["state"] == state


def test_the_end_of_the_wait_is_exit_code_3(scheduler: StandIn) -> None:
    done = run(submit, "never", "--wait", "--wait-timeout", "0.1")
    machine = run(submit, "never", "--wait", "--wait-timeout", "0.1", "--json")

    assert (done.exit_code, done.stdout, machine.exit_code) == (3, "", 3)
    assert scheduler.tasks.keys() == {done.stderr.split()[6], json.loads(machine.stdout)["id"]}


def test_an_unknown_task_is_exit_code_4(scheduler: StandIn) -> None:
    assert run(result, new_task_id(), "--timeout", "5").exit_code == 4
    assert run(status, new_task_id()).exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [["no spaces"], ["add", "--kwargs", "[1]"], ["add", "--queue", "a b"], ["add", "--priority", "10"],
     ["add", "--id", "x"]],
)  # fmt: skip
def test_a_wrong_task_is_exit_code_2(scheduler: StandIn, arguments: list[str]) -> None:
    done = run(submit, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert not scheduler.tasks


def test_a_wrong_task_is_described_without_a_number(scheduler: StandIn) -> None:
    assert "call 0" not in run(submit, "no spaces").stderr


def test_no_confirm_is_exit_code_5_with_the_id(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_AMQP_URL", "amqp://user:secret@127.0.0.1:1/")
    monkeypatch.setenv("WARREN_PUBLISH_TIMEOUT", "0.3")
    done = run(submit, "add", "1", "--json")

    assert done.exit_code == 5
    assert len(json.loads(done.stdout)["id"]) == 36
    assert "secret" not in done.output


def test_wrong_settings_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_AMQP_URL", "http://x")
    assert isinstance(run(submit, "add").exception, SettingsError)

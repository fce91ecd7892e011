"""The Compose project for real: built, brought up, worked, scraped, scaled, broken and taken down.

Skips where there is no Docker engine. One project with a name, ports and passwords of its own for the whole module; the
tests build on each other's containers but not on each other's tasks. Grafana is left out: its queries are asked of
Prometheus itself.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common import call
from common.client.sync import Client
from deploy import dashboard
from deploy.compose import Project
from deploy.credentials import State, read_env, write_client_url
from deploy.local.container import docker_runs

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
PATIENCE = 60.0
TASKS = 300
QUIET_WHEN_ALL_IS_WELL = {
    "Returned, by reason",
    "Crashes",
    "Refused and late",
    "Failed attempts",
    "Ended by force",
    "Alarms and lost connections",
    "Alerts",
}


class Stack:
    """The project under test.

    Args:
        folder: for its passwords.
        image: the name of the image to build.
    """

    def __init__(self, folder: Path, image: str) -> None:
        self.state = State(folder)
        self.project = Project(f"warren-test-{secrets.token_hex(4)}", self.state)
        ports = {f"STACK_{name}_PORT": "0" for name in ("AMQP", "MANAGEMENT", "PROMETHEUS")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
        self.environment = inherited | ports | {"STACK_IMAGE": image}
        self.tasks_run = 0

    def command(self, *arguments: str) -> str:
        """Run `python -m deploy.compose` as a user would, and return all it says."""
        names = ["--project", self.project.name, "--state", str(self.state.folder)]
        done = subprocess.run(
            [sys.executable, "-m", "deploy.compose", *names, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def up(self, *options: str) -> str:
        return self.command("up", "--no-grafana", *options)

    def containers(self, service: str, *, stopped: bool = False) -> list[str]:
        found = self.project.ask("ps", "--quiet", *(["--all"] if stopped else []), service)
        assert found is not None
        return found.split()

    def client(self) -> Client:
        address = self.project.address("rabbitmq", 5672)
        assert address is not None
        return Client(write_client_url(self.state, address).read_text())

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask Prometheus; its answer is a list of series with their values."""
        found: list[dict[str, Any]] = self.prometheus(f"query?query={urllib.parse.quote(expression)}")["result"]
        return found

    def prometheus(self, path: str) -> dict[str, Any]:
        address = self.project.address("prometheus", 9090)
        with urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=10) as answer:
            body: dict[str, Any] = json.load(answer)
        assert body["status"] == "success", body
        data: dict[str, Any] = body["data"]
        return data

    def values(self, expression: str) -> list[float]:
        return [float(series["value"][1]) for series in self.query(expression)]

    def run_tasks(self, count: int = TASKS) -> None:
        with self.client() as client:
            handles = client.submit_many(call("add", number, 1) for number in range(count))
            assert [handle.result(timeout=PATIENCE) for handle in handles] == list(range(1, count + 1))
        self.tasks_run += count


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)


def inspect(container: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", container).stdout)
    return found[0]


def until(what: str, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not docker_runs():
        pytest.skip("no Docker engine runs here")
    image = f"warren-test-{secrets.token_hex(4)}"
    stack = Stack(tmp_path_factory.mktemp("compose") / "state", image)
    try:
        said = stack.up("--scale=worker=1")
        assert "warren submit add 2 3 --wait" in said
        assert not [name for name, value in read_env(stack.state).items() if "PASSWORD" in name and value in said]
        yield stack
    finally:
        stack.command("down", "--volumes")
        docker("rmi", image)
    left = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project.name}")
    assert not left.stdout.split()
    assert not docker("volume", "ls", "--quiet", "--filter", f"name={stack.project.name}").stdout.split()


def test_tasks_come_back_with_their_results(stack: Stack) -> None:
    stack.run_tasks()
    with stack.client() as client:
        assert len(client.options(queue="math").submit("digest", "text", 10).result(timeout=PATIENCE)) == 64
    stack.tasks_run += 1


def test_the_shell_command_that_is_printed_works(stack: Stack) -> None:
    file = re.search(r"export WARREN_AMQP_URL_FILE=(.+)", stack.command("status"))
    assert file is not None
    done = subprocess.run(
        [Path(sys.executable).with_name("warren"), "submit", "add", "2", "3", "--wait", "--wait-timeout", "30"],
        env=stack.environment | {"WARREN_AMQP_URL_FILE": file[1]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5" in done.stdout
    stack.tasks_run += 1


def test_prometheus_scrapes_all(stack: Stack) -> None:
    def all_up() -> bool:
        return {(s["metric"]["job"], s["value"][1]) for s in stack.query("up")} == {
            (job, "1") for job in ("scheduler", "worker", "rabbitmq", "rabbitmq-queues", "prometheus")
        }

    until("every target is up", all_up)
    stack.run_tasks()
    until("all tasks are counted", lambda: stack.values("sum(warren_tasks_completed_total)") == [stack.tasks_run])
    assert stack.values("warren_live_workers") == [1.0]


def test_the_dashboard_shows_something(stack: Stack) -> None:
    """Each query is understood, and those that should have data have some."""
    queries = [
        (panel["title"], target["expr"])
        for panel in json.loads(dashboard.FILE.read_text())["panels"]
        for target in panel.get("targets", ())
    ]

    def empty() -> set[str]:
        stack.run_tasks()
        filled = ((title, q.replace("$queue", ".*").replace("$__rate_interval", "30s")) for title, q in queries)
        return {title for title, query in filled if not stack.query(query)} - QUIET_WHEN_ALL_IS_WELL

    until("every panel has data", lambda: not empty())


def test_the_rules_are_evaluated_and_silent(stack: Stack) -> None:
    def healths() -> set[str]:
        return {rule["health"] for group in stack.prometheus("rules")["groups"] for rule in group["rules"]}

    until("every rule has been evaluated", lambda: healths() == {"ok"})
    firing = {series["metric"]["alertname"] for series in stack.query('ALERTS{alertstate="firing"}')}
    assert firing == set()


def test_the_broker_exports_what_rules_and_panels_ask_of_it(stack: Stack) -> None:
    """Also what is quiet when all is well, and so fills no panel and fires no alert."""
    asked = "\n".join([*(file.read_text() for file in RULES.glob("*.yml")), dashboard.FILE.read_text()])
    names = set(re.findall(r"\brabbitmq_[a-z_]+", asked))
    assert "rabbitmq_alarms_memory_used_watermark" in names
    until("Prometheus has each of them", lambda: not {name for name in names if not stack.query(f"count({name})")})


def test_workers_scale_and_each_is_scraped(stack: Stack) -> None:
    stack.up("--no-build", "--scale=worker=3")
    until("three workers are scraped", lambda: stack.values('up{job="worker"}') == [1.0] * 3)
    until("three workers are live", lambda: stack.values("warren_live_workers") == [3.0])

    def all_have_worked() -> bool:
        stack.run_tasks()
        return len(stack.query("sum by (instance) (warren_worker_completed_total) > 0")) == 3

    until("each worker has done tasks", all_have_worked)
    assert stack.values('sum(warren_live_slots{queue="default"})') == [150.0]


@pytest.mark.parametrize("service", ["rabbitmq", "scheduler", "worker", "prometheus"])
def test_containers_are_locked_down(stack: Stack, service: str) -> None:
    container = stack.containers(service)[0]
    found = inspect(container)
    uid = docker("exec", container, "id", "-u").stdout.strip()
    assert uid not in ("", "0")
    assert docker("exec", container, "touch", "/tried").returncode != 0
    assert docker("exec", container, "grep", "CapEff", "/proc/1/status").stdout.split()[1] == "0" * 16
    assert found["HostConfig"]["Memory"] > 0
    assert {port["HostIp"] for ports in found["NetworkSettings"]["Ports"].values() for port in ports or ()} <= {
        "127.0.0.1"
    }
    told = json.dumps(found) + docker("logs", container).stdout + docker("logs", container).stderr
    assert not [name for name, value in read_env(stack.state).items() if "PASSWORD" in name and value in told]


def test_everything_comes_back_after_the_broker_was_killed(stack: Stack) -> None:
    assert docker("kill", "--signal=KILL", *stack.containers("rabbitmq")).returncode == 0
    # Docker does not restart what was killed by hand (`restart: unless-stopped`), so this is also a cold start.
    stack.up("--no-build", "--scale=worker=3")
    stack.run_tasks()


def test_data_outlives_the_containers(stack: Stack) -> None:
    with stack.client() as client:
        task_id = client.submit("add", 20, 22).id
        assert client.handle(task_id).result(timeout=PATIENCE) == 42
    stack.command("down")
    assert stack.containers("scheduler", stopped=True) == []
    stack.up("--no-build", "--scale=worker=1")
    with stack.client() as client:
        assert client.handle(task_id).result(timeout=PATIENCE) == 42


def test_a_new_password_is_taken_up(stack: Stack) -> None:
    old = read_env(stack.state)["STACK_CLIENT_PASSWORD"]
    text = stack.state.env_file.read_text()
    stack.state.env_file.write_text(text.replace(old, secrets.token_urlsafe(24)))
    stack.up("--no-build", "--scale=worker=1")
    stack.run_tasks()


def test_backup_while_it_runs(stack: Stack, tmp_path: Path) -> None:
    """The commands of docs/operations.md, as they are written there."""
    import sqlite3

    guide = (ROOT / "docs" / "operations.md").read_text()
    script = re.search(r'exec scheduler python -c "\n(import sqlite3\nsource.*?)"\n', guide, re.DOTALL)
    assert script is not None
    scheduler = stack.containers("scheduler")[0]
    done = docker("exec", scheduler, "python", "-c", script[1])
    assert done.returncode == 0, done.stderr
    copied = docker("cp", f"{scheduler}:/var/lib/warren/backup.db", str(tmp_path))
    assert copied.returncode == 0, copied.stderr
    with sqlite3.connect(tmp_path / "backup.db") as backup:
        assert backup.execute("pragma integrity_check").fetchone() == ("ok",)
        assert backup.execute("select count(*) from tasks").fetchone()[0] >= TASKS
    backup.close()


def test_services_drain_when_they_are_stopped(stack: Stack) -> None:
    ours = {service: stack.containers(service) for service in ("worker", "scheduler")}
    for service in ours:
        began = time.monotonic()
        assert stack.project.ask("stop", service) is not None
        assert time.monotonic() - began < 30
    codes = {service: {inspect(each)["State"]["ExitCode"] for each in found} for service, found in ours.items()}
    assert codes == {"worker": {0}, "scheduler": {0}}

"""README.md, carried out: every block runs as it stands there, against real services, and does what it says."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common import Client, Handle
from common.settings import ClientSettings
from common.tasks import registry
from deploy.local import Broker
from tests.support import readme
from tests.support.conditions import wait_until
from tests.support.services import ROOT, ServiceProcess

SCRIPTS = Path(sys.executable).parent
SYNC = "from common import AsyncClient, Client, call"
ASYNC = "async with AsyncClient("
LIFE = "with Client() as client:\n    job ="
FLEET = "with Client() as client:\n    client.set_quota"
UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


class Shell:
    """Where the README's commands are carried out: in a clone, with a broker that the environment names."""

    def __init__(self, broker: Broker, namespace: str, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
        self.environment = inherited | {
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "WARREN_AMQP_URL": broker.url,
            "WARREN_NAMESPACE": namespace,
            "WARREN_DATABASE_URL": f"sqlite:///{folder}/warren.db",
            "WARREN_HTTP_PORT": "0",
            "WARREN_LOG_FORMAT": "json",
            "WARREN_CONFIG": os.devnull,
        }

    def run(self, *argv: str) -> str:
        """Return what a command prints; one that fails fails the test."""
        done = subprocess.run(
            self._found(argv), cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{shlex.join(argv)[:200]}\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def serve(self, line: str) -> ServiceProcess:
        """Start a service by its command, keep it until the end of the test, and return when it is ready."""
        argv = shlex.split(line, comments=True)
        name = "-".join(argv[:2])
        service = ServiceProcess(name, self._found(argv), self.environment, self.folder / f"{name}.log", restart=False)
        self._stack.callback(service.stop, signal.SIGTERM, 10.0)
        self._stack.callback(lambda: print(f"--- {name}\n{service.said()[-3000:]}"))
        service.start()
        service.await_ready()
        return service

    def _found(self, argv: tuple[str, ...] | list[str]) -> list[str]:
        command = shutil.which(argv[0], path=self.environment["PATH"])
        assert command is not None, f"there is no command {argv[0]!r}"
        return [command, *argv[1:]]


@pytest.fixture
def shell(broker: Broker, namespace: str, tmp_path: Path) -> Iterator[Shell]:
    """A shell in which the README's scheduler and worker have been started."""
    with ExitStack() as stack:
        opened = Shell(broker, namespace, tmp_path, stack)
        for line in readme.commands("warren scheduler"):
            opened.serve(line)
        yield opened


def serve_math(shell: Shell) -> None:
    """Start the worker that the README names for the queue `math`."""
    (line,) = readme.inline("warren worker")
    shell.serve(line)


def test_the_client_block(shell: Shell) -> None:
    first, *others = shell.run(sys.executable, "-W", "error", "-c", readme.block("python", SYNC)).splitlines()

    assert UUID.fullmatch(first.split()[0])
    assert first.split()[1] == "5"
    outcomes = dict(line.split() for line in others)
    assert len(outcomes) == 10_000
    assert sorted(map(int, outcomes.values())) == [2 * number for number in range(10_000)]


def test_the_asyncio_block(shell: Shell, broker: Broker) -> None:
    serve_math(shell)
    text = readme.block("python", ASYNC)
    assert text.count(ClientSettings().amqp_url) == 1, "the block names the broker that is the default"

    imports = readme.block("python", SYNC).splitlines()[0]
    body = textwrap.indent(text.replace(ClientSettings().amqp_url, broker.url), "    ")
    program = f"import asyncio\n{imports}\nasync def main():\n{body}\nasyncio.run(main())\n"
    assert shell.run(sys.executable, "-W", "error", "-c", program) == "5\n"


def test_asking_later(shell: Shell, broker: Broker, namespace: str) -> None:
    result, status = readme.block("python", "client.handle(task_id)").splitlines()
    (note,) = re.findall(r'"(.+)"', status)
    with Client(broker.url, namespace=namespace) as submitter, Client(broker.url, namespace=namespace) as client:
        names = {"client": client, "task_id": submitter.options(queue="math").submit("add", 2, 3).id}
        wait_until(lambda: eval(status, names).note == note, 10.0, note, lambda: eval(status, names))
        assert eval(status, names).state in ("queued", "dispatched")

        serve_math(shell)
        assert eval(result, names) == 5
        known = eval(status, names)
        assert (known.state, known.attempt, known.note) == ("succeeded", 1, "")
        assert known.worker


def test_the_shell_block(shell: Shell) -> None:
    submit, status, result = (shlex.split(line) for line in readme.commands("warren submit add"))
    assert shell.run(*submit) == "5\n"
    done = json.loads(shell.run(*submit, "--json"))
    assert (done["state"], done["result"]) == ("succeeded", 5)

    status, result = ([UUID.sub(done["id"], word) for word in words] for words in (status, result))
    assert status[-1] == result[-1] == done["id"]
    assert shell.run(*status).startswith(f"{done['id']}  succeeded\n")
    assert json.loads(shell.run(*status, "--json"))["state"] == "succeeded"
    assert shell.run(*result) == "5\n"
    assert json.loads(shell.run(*result, "--json")) == done


def test_the_block_about_the_life_of_tasks(shell: Shell) -> None:
    program = readme.block("python", SYNC).splitlines()[0] + "\n" + readme.block("python", LIFE)
    first, second, results, *others = shell.run(sys.executable, "-W", "error", "-c", program).splitlines()

    assert (first, second, results) == ("cancelled", "cancelled", "5 5")
    assert others[0].startswith("TaskStatus(")
    assert others[-1].endswith(" cancelled")
    assert len(others) == 1 + 100


def test_the_block_of_a_decorator() -> None:
    names: dict[str, object] = {}
    exec(readme.block("python", "from common import Fail"), names)
    policy = registry.pop("load").policy
    assert (policy.timeout, policy.retries, policy.retry_on) == (60.0, 3, ("OSError", "TimeoutError"))


def test_the_shell_block_about_the_life_of_tasks(shell: Shell) -> None:
    submit, tasks, cancel, dead, replay = (shlex.split(line) for line in readme.commands("warren submit nap"))
    task_id = shell.run(*submit).strip()
    divide = json.loads(shell.run("warren", "submit", "divide", "1", "0", "--json"))["id"]
    wait_until(lambda: shell.run(*dead) != "", 20.0, "it has failed")

    assert shell.run(*tasks).splitlines()[1].split()[:2] == [task_id, "scheduled"]
    assert shell.run(*cancel) == "1 cancelled\n"
    assert shell.run(*dead).splitlines()[1].split()[0] == divide
    assert shell.run(*replay).startswith(f"{divide}  replayed as ")
    for command in readme.inline("warren "):
        if command.split()[1] not in ("worker",):
            assert "Usage" in shell.run(*shlex.split(command), "--help")


def test_the_blocks_about_the_fleet(shell: Shell) -> None:
    queues, set_, limit, pause, move, workers, stacks, changes = (
        shlex.split(line, comments=True) for line in readme.commands("warren queues")
    )
    waiting = shell.run("warren", "submit", "add", "2", "3", "--queue", "email").strip()
    wait_until(lambda: "email" in shell.run(*queues), 20.0, "it is queued")
    assert shell.run(*set_) == "queue email: weight 3, at most 100/s, at most 20 at a time\n"
    assert shell.run(*limit) == "key customer-7: weight 1, at most 10 at a time\n"
    assert "paused" in shell.run(*pause)
    assert shell.run(*move) == "1 moved to bulk\n"
    assert "queue bulk" in shell.run("warren", "status", waiting)
    worker = shell.run(*workers).splitlines()[1].split()[0]
    assert shell.run(*stacks).startswith(worker)
    assert [line.split()[3] for line in shell.run(*changes).splitlines()[1:]] == [
        "command", "move", "quota", "quota", "quota",
    ]  # fmt: skip

    program = readme.block("python", SYNC).splitlines()[0] + "\n" + readme.block("python", FLEET)
    shown, *described, answered = shell.run(sys.executable, "-W", "error", "-c", program).splitlines()
    assert shown == "5 no live worker of the queue 'default' that knows 'add' has the labels gpu"
    assert {line.split()[0] for line in described} >= {"bulk", "default", "email"}
    assert answered.split()[0] == worker


@pytest.mark.parametrize("number", [0, 1])
def test_the_other_name_of_a_service(number: int) -> None:
    """`or python -m ...` is the same command: what it says of itself differs in nothing but the name."""
    line = readme.commands("warren scheduler")[number]
    _, other = line.split("# or ")
    said = []
    for argv in (shlex.split(line, comments=True)[:2], [sys.executable, *shlex.split(other)[1:]]):
        help_ = [str(SCRIPTS / argv[0]), *argv[1:], "--help"]
        said.append(subprocess.run(help_, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert said[0].partition("\n")[2] == said[1].partition("\n")[2] != ""


def test_the_task_functions_are_those_of_the_examples() -> None:
    text = readme.block("python", "# examples/tasks.py\n")
    shown, real = (_statements(source) for source in (text, (ROOT / "examples/tasks.py").read_text()))
    assert len(shown) == 2
    assert not [statement for statement in shown if statement not in real]


def _statements(source: str) -> list[str]:
    """The top-level statements, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return [ast.unparse(node) for node in tree.body]


def test_the_types(tmp_path: Path) -> None:
    sync, other = readme.block("python", SYNC), readme.block("python", ASYNC)
    ((typed, expected),) = re.findall(r"or (client\.submit\(.*?\)): typed as (\S+)$", sync, re.MULTILINE)
    assert expected == f"{Handle.__name__}[int]"
    program = tmp_path / "snippets.py"
    program.write_text(
        f"from typing import assert_type\nfrom common import Handle\nfrom examples.tasks import add\n{sync}"
        f"    assert_type({typed}, {expected})\n"
        f"async def main() -> None:\n{textwrap.indent(other, '    ')}"
        f"{readme.block('python', LIFE)}{readme.block('python', FLEET)}"
        f"{readme.block('python', 'from common import Fail')}"
    )
    argv = [sys.executable, "-m", "mypy", str(program)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_linked_is_there() -> None:
    links = readme.local_links()
    assert {"docs/architecture.svg", "docs/protocol.md"} <= links
    assert not [link for link in links if not (ROOT / link).is_file()]


def test_every_make_target_and_file_of_a_command_is_there() -> None:
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert readme.make_targets() >= {"demo", "test", "help", "up", "down", "bench"}
    assert readme.make_targets() <= set(targets)
    files = [word for line in readme.commands("make up") for word in shlex.split(line, comments=True) if "/" in word]
    assert files == ["deploy/compose.yaml"]
    assert (ROOT / files[0]).is_file()

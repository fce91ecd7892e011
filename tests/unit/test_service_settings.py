"""What is wrong with a service's settings is said before it starts, all at once."""

from pathlib import Path

import pytest

from common.errors import SettingsError
from common.settings import load
from common.urls import is_host
from scheduler_service.settings import SchedulerSettings
from worker_service.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scheduler_faults(**environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(SchedulerSettings, table="scheduler", environ=named(environ))
    return caught.value.faults


def worker_faults(**environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(WorkerSettings, table="worker", environ={"WARREN_MODULES": "examples.tasks"} | named(environ))
    return caught.value.faults


def named(environ: dict[str, str]) -> dict[str, str]:
    return {f"WARREN_{name.upper()}": value for name, value in environ.items()}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:hush@localhost/warren", "is not sqlite:///FILE"),
        ("sqlite://", "is not sqlite:///FILE"),
        ("sqlite:///", "is not sqlite:///FILE"),
        ("sqlite:///:memory:", "has to name a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "has to name a file"),
        ("sqlite:///warren.db?mode=ro", "takes none"),
        ("sqlite:///.", "names a folder"),
        (f"sqlite:///{'x' * 5000}", "has no path in it"),
        ("sqlite:///a\x07b.db", "has no path in it"),
    ],
)
def test_the_store_has_to_be_a_file(url: str, expected: str) -> None:
    (fault,) = scheduler_faults(database_url=url)
    assert fault.startswith("database_url ")
    assert expected in fault
    assert "from the environment variable WARREN_DATABASE_URL" in fault
    assert "hush" not in fault


def test_every_fault_of_a_scheduler_is_said_at_once() -> None:
    found = scheduler_faults(
        database_url="sqlite:///:memory:",
        operators="anna,*",
        worker_users="x" * 256,
        http_host="not a host!",
        heartbeat="1",
    )
    assert [fault.split(" ")[0] for fault in found] == [
        "heartbeat",
        "http_host",
        "database_url",
        "operators",
        "worker_users",
    ]
    assert "name the broker's users one by one" in found[3]


def test_every_fault_of_a_worker_is_said_at_once() -> None:
    found = worker_faults(
        modules="examples.tasks,my app,path/to.py", child_environment="HOME,A=B,C D", http_host="[::1]"
    )
    assert [" ".join(fault.split(" ")[:3]) for fault in found] == [
        "http_host '[::1]' is",
        "modules has 'my",
        "modules has 'path/to.py',",
        "child_environment has 'A=B',",
        "child_environment has 'C",
    ]


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "::1", "fe80::1", "0.0.0.0", "localhost", "a-b.example.org.", "my_host", "x" * 63, "3com.com"]
)
def test_a_host(name: str) -> None:
    assert is_host(name)


@pytest.mark.parametrize(
    "name", ["", "a b", "1.2.3.999", "-a", "a-", "a..b", "[::1]", "x" * 64, "h!", "host:80", "ä.de"]
)
def test_no_host(name: str) -> None:
    assert not is_host(name)

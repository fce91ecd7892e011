"""The user's modules: what is imported, and what is said when it cannot be."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.tasks import Registry, task
from worker_service.identity import new_worker_id
from worker_service.loader import load
from worker_service.runtimes.forker import child_environment


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def fault(*modules: str, functions: Registry | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(modules, {} if functions is None else functions)
    return str(caught.value)


def test_functions_are_compiled_by_name() -> None:
    functions: Registry = {}

    @task(name="one", registry=functions)
    async def first() -> None: ...

    @task(name="two", registry=functions)
    def second() -> None: ...

    handlers = load(["json"], functions)
    assert {name: handler.is_coroutine for name, handler in handlers.items()} == {"one": True, "two": False}


def test_a_module_in_the_working_directory_is_found(here: Path) -> None:
    (here / "wk_here.py").write_text("from common import task\n@task(name='wk_here.f')\ndef f(): ...\n")
    assert "wk_here.f" in load(["wk_here"])


def test_what_is_wrong_is_said(here: Path) -> None:
    (here / "wk_broken.py").write_text("1 / 0\n")
    (here / "wk_needs.py").write_text("import wk_not_there_either\n")
    (here / "wk_exits.py").write_text("raise SystemExit(3)\n")
    (here / "wk_empty.py").write_text("")
    text = fault("wk_not_there", "wk_broken", "wk_needs", "wk_exits", "app/tasks.py")
    assert "there is no module 'wk_not_there'" in text
    assert "'wk_broken' cannot be imported: ZeroDivisionError" in text
    assert "'wk_needs' imports 'wk_not_there_either'" in text
    assert "'wk_exits' cannot be imported: SystemExit" in text
    assert "'app/tasks.py' is a file; give the module's import name, such as 'app.tasks'" in text
    assert "no task functions in wk_empty" in fault("wk_empty")


def test_two_functions_of_one_name_are_refused(here: Path) -> None:
    (here / "wk_one.py").write_text("from common import task\n@task(name='wk.same')\ndef f(): ...\n")
    (here / "wk_two.py").write_text("from common import task\n@task(name='wk.same')\ndef g(): ...\n")
    assert "two functions are named 'wk.same'" in fault("wk_one", "wk_two")


def test_a_function_that_json_cannot_call_is_refused() -> None:
    functions: Registry = {}

    @task(name="bad", registry=functions)
    def bad(x: Path) -> None: ...

    assert "argument 'x'" in fault("json", functions=functions)


def test_another_common_package_is_refused(here: Path) -> None:
    (here / "common").mkdir()
    (here / "common" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(Path(__file__).parents[2])!r}]; import worker_service"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "which is not Warren's" in done.stderr


def test_worker_ids_are_unique_and_fit_for_queue_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "hôst.example." + "x" * 100)
    one, other = new_worker_id(), new_worker_id()
    assert one != other
    assert len(one) <= 64
    assert all(character.isascii() and (character.isalnum() or character in "_-") for character in one)
    assert new_worker_id("mine").startswith("mine-")


def test_children_get_all_but_what_is_warrens() -> None:
    environ = {"PATH": "/bin", "SHOP_TOKEN": "x", "WARREN_AMQP_URL": "secret", "WARREN_NAMESPACE": "shop"}
    assert child_environment(environ, ()) == {"PATH": "/bin", "SHOP_TOKEN": "x"}
    assert child_environment(environ, ["WARREN_NAMESPACE", "WARREN_CONFIG"]) == {
        "PATH": "/bin",
        "SHOP_TOKEN": "x",
        "WARREN_NAMESPACE": "shop",
    }

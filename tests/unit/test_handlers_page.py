"""`docs/handlers.md` says what there is: its examples run, its names exist."""

import asyncio
import re
from concurrent.futures import Future
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from common.context import Context, TaskContext, current
from common.errors import Fail, Retry
from common.options import Policy
from common.questions import Progress
from common.tasks import registry
from common.wire import Assignment, TaskMessage
from worker_service.settings import WorkerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text()


class Surroundings:
    def __init__(self) -> None:
        self.reports: list[Progress] = []
        self.submitted: list[TaskMessage] = []

    def progress(self, lease: str, progress: Progress) -> None:
        self.reports.append(progress)

    def submit(self, message: TaskMessage) -> Future[None]:
        self.submitted.append(message)
        done: Future[None] = Future()
        done.set_result(None)
        return done


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's examples define."""
    monkeypatch.setattr("common.tasks.registry", registry.copy())
    before = dict(registry)
    names: dict[str, Any] = {"__name__": "handlers_page"}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(block, names)
    finally:
        registry.clear()
        registry.update(before)
    return names


def run(function: Any, *args: Any, attempt: int = 1) -> tuple[Any, Surroundings]:
    """What the function returns as attempt number `attempt` of a task."""
    surroundings = Surroundings()

    def inside() -> Any:
        current.set(TaskContext(Assignment("the id", "work", "lease", attempt), "default", surroundings))
        made = function(*args)
        return asyncio.run(made) if asyncio.iscoroutine(made) else made

    return copy_context().run(inside), surroundings


def test_its_policy_does_what_it_says(example: dict[str, Any]) -> None:
    fetch = example["fetch"]
    with pytest.raises(Fail):
        run(fetch, "ftp://x")
    with pytest.raises(Retry) as raised:
        run(fetch, "https://x")
    assert raised.value.after == 30
    assert run(fetch, "https://x", attempt=2)[0] == 9
    assert fetch.policy.give_up_on == ("PermissionError",)


def test_its_context_does_what_it_says(example: dict[str, Any]) -> None:
    done, surroundings = run(example["resize"], ["a.png", "b.png"])
    assert done == 2
    assert [(each.done, each.total, each.note) for each in surroundings.reports] == [(1, 2, "a.png"), (2, 2, "b.png")]
    ids, surroundings = run(example["resize_album"], {"sea": ["a.png"], "woods": ["b.png"]})
    assert ids == [message.id for message in surroundings.submitted]
    options = [message.options for message in surroundings.submitted]
    assert [(each.parent, each.labels) for each in options if each] == [
        ("the id", {"album": "sea"}),
        ("the id", {"album": "woods"}),
    ]


def test_its_names_exist() -> None:
    told = {name for name in vars(Context) if not name.startswith("_")}
    assert told == set(re.findall(r"`ctx\.(\w+)", PAGE))
    for setting in ("processes", "slots", "loop_blocked_after", "timeout_grace"):
        assert setting in WorkerSettings.__struct_fields__
        assert f"`{setting}`" in PAGE
    for word in Policy.__struct_fields__:
        assert word in PAGE

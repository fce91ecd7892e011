"""Whatever a task function raises is the outcome of its task, also when the exception's own code misbehaves."""

import dataclasses
from typing import Any

import pytest

from common.context import TaskContext
from common.errors import Retry
from common.tasks import Registry, task
from common.wire import Assignment, ErrorKind, Outcome, decode, encode
from worker_service.handlers import Handler
from worker_service.pipeline import run_coroutine, run_plain
from worker_service.results import Limits


class Own(Retry):
    def __init__(self, code: int) -> None:
        self.code = code


@dataclasses.dataclass
class Data(Retry):
    code: int = 0


class Number(float):
    """As other libraries have them."""


class Unsplittable(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        raise RuntimeError("never")


class Text(str):
    def __len__(self) -> int:
        raise RuntimeError("no length")


class Odd(Exception):
    def __str__(self) -> str:
        return Text("odd")


def later(after: Any) -> Retry:
    error = Retry()
    error.after = after
    return error


RAISED = {
    "a retry with an __init__ of its own": (Own(5), ErrorKind.RETRY),
    "a retry that is a dataclass": (Data(5), ErrorKind.RETRY),
    "another library's number": (Retry(after=Number(0.5)), ErrorKind.RETRY),
    "a boolean": (Retry(after=True), ErrorKind.RETRY),
    "a wait that was set to nonsense": (later("soon"), ErrorKind.RETRY),
    "a wait that was set below 0": (later(-1), ErrorKind.RETRY),
    "a group that cannot be split": (Unsplittable("group", [ValueError()]), ErrorKind.EXCEPTION),
    "a text without length": (Odd(), ErrorKind.EXCEPTION),
}
LIMITS = Limits(1000, 32)


@pytest.mark.parametrize("name", RAISED)
async def test_what_is_raised_is_an_outcome_that_can_be_sent(name: str) -> None:
    error, kind = RAISED[name]
    registry: Registry = {}

    @task(registry=registry)
    async def awaited() -> None:
        raise error

    @task(registry=registry)
    def plain() -> None:
        raise error

    for function in (awaited, plain):
        assignment = Assignment("id", function.name, "lease", 1)
        context = TaskContext(assignment, "q", None)  # type: ignore[arg-type]
        run: Any = run_coroutine if function is awaited else run_plain
        made = run(context, Handler(function), LIMITS)
        outcome: Outcome = await made if function is awaited else made
        assert outcome.error is not None
        assert outcome.error.kind is kind
        again = decode(Outcome, encode(outcome))
        assert again.error == outcome.error
        if kind is ErrorKind.RETRY:
            assert again.advice is not None
            assert again.advice.after in (None, 0.5, 1.0)

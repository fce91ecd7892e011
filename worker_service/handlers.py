"""A task function as the worker runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.options import Policy
from common.tasks import Runtime, TaskFunction, is_coroutine
from worker_service.arguments import Arguments
from worker_service.checks import ResultCheck, result_check


class Handler:
    """A task function with everything that can be prepared before a task arrives.

    Attributes:
        name: what messages call it.
        function: the plain function.
        is_coroutine: whether it has to be awaited.
        in_process: whether it runs in a process that can be killed.
        policy: what its decorator says.
        timed: whether its decorator names a timeout.
        requires: labels that a worker has to have to run it.
        arguments: its compiled argument decoder.
        check_result: raises when the JSON of a result does not fit the return annotation; None without one to check.
    """

    __slots__ = (
        "arguments",
        "check_result",
        "function",
        "in_process",
        "is_coroutine",
        "name",
        "policy",
        "requires",
        "timed",
    )

    def __init__(self, task: TaskFunction[..., Any]) -> None:
        self.name = task.name
        self.function: Callable[..., Any] = task.function
        self.is_coroutine = is_coroutine(task.function)
        self.in_process = task.runtime is Runtime.PROCESS
        self.policy: Policy = task.policy
        self.requires = frozenset(task.requires)
        self.timed = self.policy.timeout is not None or self.policy.hard_timeout is not None
        self.arguments = Arguments(task.function, task.name)
        self.check_result: ResultCheck | None = result_check(task.result_type)

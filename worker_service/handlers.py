"""A task function as the worker runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.tasks import Runtime, TaskFunction
from worker_service.arguments import Arguments


class Handler:
    """A task function with everything that can be prepared before a task arrives.

    Attributes:
        name: what messages call it.
        function: the plain function.
        is_coroutine: whether it has to be awaited.
        arguments: its compiled argument decoder.
    """

    __slots__ = ("arguments", "function", "is_coroutine", "name")

    def __init__(self, task: TaskFunction[..., Any]) -> None:
        self.name = task.name
        self.function: Callable[..., Any] = task.function
        self.is_coroutine = task.runtime is Runtime.COROUTINE
        self.arguments = Arguments(task.function, task.name)

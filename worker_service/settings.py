"""The worker's settings; see `common.settings` for where they come from."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from common.options import Label
from common.settings import CommonSettings, Port, Seconds
from common.wire import DEFAULT_QUEUE, QueueName

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class WorkerSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of a worker; table ``[worker]``.

    Attributes:
        modules: the modules with the task functions, by their import names.
        queues: the queues to serve.
        slots: how many tasks run at a time.
        labels: what this worker has, for tasks that require it.
        name: shown in the worker's id in place of the host's name; None for the host's name.
        drain_timeout: seconds that running tasks have to finish after SIGTERM.
        hold_after: seconds after which a running task's delivery is acked (`held`). Half of the broker's consumer
            timeout at most (30 minutes by default), or the broker takes the delivery back.
        queue_patience: seconds that a task waits for a slot here before another worker may have it.
        beat_interval: seconds between two beats.
        max_result_bytes: the largest result, as JSON; also the largest that the broker has to take.
        max_depth: how deep arrays and objects may nest in arguments and results.
        processes: how many processes run the task functions with ``runtime="process"``; 0 for one for each core.
        process_tasks: how many tasks one of them runs before another one takes its place.
        timeout_grace: seconds that a task function has to end after its hard timeout before it is given up.
        max_given_up: how many task functions that were given up may go on; with one more the worker drains and ends
            with exit code 4, since only that gives back what they hold.
        loop_blocked_after: seconds after which a coroutine function that blocks the event loop is named in the log.
        memory_high: bytes of the worker's process and its children above which it takes fewer tasks at a time; 0 for
            never.
        loop_lag_high: seconds that the event loop of coroutine functions may be late before the worker takes fewer
            tasks at a time; 0 for never.
        slow_factor: a task is named in the log when it runs this much longer than the 95th percentile of the last 100
            runs of its function.
        slow_after: seconds that it has to run before that at least.
        child_environment: names of variables that the processes of tasks get besides all those that do not begin with
            ``WARREN_``, such as ``WARREN_AMQP_URL`` for task functions that make a client of their own.
    """

    http_port: Port = 9465
    modules: tuple[str, ...] = ()
    queues: Annotated[tuple[QueueName, ...], Meta(min_length=1, max_length=64)] = (DEFAULT_QUEUE,)
    slots: Annotated[int, Meta(ge=1, le=10_000)] = 50
    labels: Annotated[tuple[Label, ...], Meta(max_length=64)] = ()
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")] | None = None
    drain_timeout: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    hold_after: Seconds = 900.0
    queue_patience: Seconds = 0.1
    beat_interval: Annotated[float, Meta(ge=0.1, le=5.0)] = 1.0
    max_result_bytes: Annotated[int, Meta(ge=1024, le=14 * 1024 * 1024)] = 1024 * 1024
    max_depth: Annotated[int, Meta(ge=1, le=100)] = 32
    processes: Annotated[int, Meta(ge=0, le=1000)] = 0
    process_tasks: Annotated[int, Meta(ge=1)] = 1000
    timeout_grace: Annotated[float, Meta(ge=0.01, le=600)] = 1.0
    max_given_up: Annotated[int, Meta(ge=0, le=10_000)] = 100
    loop_blocked_after: Annotated[float, Meta(ge=0.05, le=600)] = 1.0
    memory_high: Annotated[int, Meta(ge=0)] = 0
    loop_lag_high: Annotated[float, Meta(ge=0, le=600)] = 0.0
    slow_factor: Annotated[float, Meta(ge=1, le=1_000_000)] = 10.0
    slow_after: Annotated[float, Meta(ge=0.1, le=86_400 * 366)] = 60.0
    child_environment: tuple[str, ...] = ()

    def faults(self) -> list[str]:
        """Besides the common ones: no modules, what is no name, a module, queue or label that is named twice."""
        faults = super().faults()
        if not self.modules:
            faults.append("modules is empty: name the modules with your task functions, `warren worker myapp.tasks`")
        faults += [
            f"modules has {module!r}, which is not a module's import name, like myapp.tasks"
            for module in dict.fromkeys(self.modules)
            if not all(part.isidentifier() for part in module.split("."))
        ]
        faults += [
            f"child_environment has {name!r}, which is not a variable's name; the value is taken from the worker's own "
            "environment"
            for name in self.child_environment
            if not _VARIABLE.fullmatch(name)
        ]
        for field, names in (("modules", self.modules), ("queues", self.queues), ("labels", self.labels)):
            twice = sorted({name for name in names if names.count(name) > 1})
            faults += [f"{field} names {name!r} twice" for name in twice]
        return faults

"""The scheduler's settings; `common.settings` says where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from common.options import LONGEST
from common.settings import SECRET, CommonSettings, Port, Seconds, is_there
from common.urls import redact_url
from common.wire import LARGEST_TASK

TABLE: Final = "scheduler"

_SQLITE: Final = "sqlite:///"
_LONGEST_USER: Final = 255
_LONGEST_PATH: Final = 4000


class SchedulerSettings(CommonSettings, frozen=True, kw_only=True):
    """Settings of the scheduler; table ``[scheduler]``.

    Attributes:
        database_url: where tasks are stored, ``sqlite:///file``.
        operators: the broker users who may see, cancel, replay and purge everybody's tasks, and what was parked
            without an owner, and who may change quotas and command workers.
        worker_users: the broker users of the workers, whose word counts when they say which task submitted another one:
            it then belongs to that task's owner. The scheduler's own user is always one of them.
        max_task_bytes: the largest arguments (positional and named together) of one task, bytes.
        max_depth: how deep arrays and objects may nest in arguments.
        max_queues: how many work queues clients may bring into being by naming them.
        max_lanes: how many combinations of queue, priority, task function, fairness key and required labels are told
            apart among the tasks that wait; beyond it, tasks of new keys share one turn.
        max_crashes: a task fails when it has killed the process that ran it this often.
        unknown_function_grace: seconds for which a function that no worker ever named is tried again.
        dead_after: seconds of silence after which a worker counts as dead.
        rescue_interval: seconds between two searches for lost tasks.
        window_limit: the most tasks that one queue may have dispatched and unfinished.
        result_ttl: seconds for which a task is kept after its end, with its result, unless its submission says
            otherwise; also what was refused and parked.
        drain_target: seconds within which the recommended number of workers would empty a queue.
        drain_timeout: seconds that a stopping scheduler has to finish what it has begun.
        store_commit_delay: seconds added to each commit, to measure with a slow disk.
    """

    database_url: Annotated[str, SECRET] = "sqlite:///warren.db"
    http_port: Port = 9464
    operators: tuple[str, ...] = ()
    worker_users: tuple[str, ...] = ("worker",)
    max_task_bytes: Annotated[int, Meta(ge=1024, le=LARGEST_TASK)] = 256 * 1024
    max_depth: Annotated[int, Meta(ge=1, le=500)] = 32
    max_queues: Annotated[int, Meta(ge=1, le=10_000)] = 256
    max_lanes: Annotated[int, Meta(ge=100, le=1_000_000)] = 10_000
    max_crashes: Annotated[int, Meta(ge=1, le=100)] = 2
    unknown_function_grace: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    dead_after: Annotated[float, Meta(ge=3, le=3600)] = 15.0
    rescue_interval: Seconds = 5.0
    window_limit: Annotated[int, Meta(ge=1, le=100_000)] = 5000
    result_ttl: Annotated[float, Meta(ge=0, le=LONGEST)] = 7 * 86_400.0
    drain_target: Seconds = 60.0
    drain_timeout: Seconds = 10.0
    store_commit_delay: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def faults(self) -> list[str]:
        """Besides the common ones: a database that is no file, users that no broker has."""
        faults = super().faults()
        if wrong := _check_database_url(self.database_url):
            faults.append(f"database_url {redact_url(self.database_url)!r} {wrong}")
        for field, users in (("operators", self.operators), ("worker_users", self.worker_users)):
            faults += [f"{field} has {user!r}, {wrong}" for user in users if (wrong := _check_user(user))]
        return faults


def _check_database_url(url: str) -> str:
    """What is wrong with the address of the store, or an empty string."""
    file = url.removeprefix(_SQLITE)
    if file == url or not file:
        return "is not sqlite:///FILE, the only kind so far"
    if file == ":memory:" or file.startswith("file:"):
        return "has to name a file, or nothing would survive a restart"
    if "?" in file:
        return "has options behind '?', and takes none"
    if not file.isprintable() or len(file.encode(errors="replace")) > _LONGEST_PATH:
        return f"has no path in it that a file can have ({_LONGEST_PATH} bytes at most, without control characters)"
    if is_there(Path(file), Path.is_dir):
        return "names a folder; name a file in it"
    return ""


def _check_user(user: str) -> str:
    """What is wrong with the name of a broker's user, or an empty string."""
    if "*" in user:
        return "and '*' stands for nobody: name the broker's users one by one"
    if not user.isprintable() or len(user.encode(errors="replace")) > _LONGEST_USER:
        return "which cannot be the name of a broker's user (255 bytes at most, without control characters)"
    return ""

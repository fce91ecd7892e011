"""Warren: a distributed task scheduler on RabbitMQ.

::

    from common import Client, task

Everything here is imported on first use, and so are pika and aio-pika: by the first call that needs the broker. Neither
client costs an import of the other's library, nor of those of the services.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from common.client.aio import AsyncClient, AsyncHandle
    from common.client.sync import Client, Handle
    from common.context import ctx
    from common.errors import (
        ClientClosed,
        Fail,
        InvalidFilter,
        InvalidTask,
        NoTask,
        ResultTimeout,
        Retry,
        SubmissionError,
        SubmissionRefused,
        SubmissionUnknown,
        TaskCancelled,
        TaskError,
        TaskExpired,
        TaskFailed,
        TaskTimeout,
        UnknownTask,
        WarrenError,
    )
    from common.options import Backoff
    from common.questions import DeadLetter, Progress, TaskStatus
    from common.tasks import Call, TaskFunction, call, task

__version__: Final = "0.1.0"

WARREN: Final = "warren.common"
"""By this a service recognises that `common` is ours, and not another distribution's package of that name."""

__all__ = [
    "WARREN",
    "AsyncClient",
    "AsyncHandle",
    "Backoff",
    "Call",
    "Client",
    "ClientClosed",
    "DeadLetter",
    "Fail",
    "Handle",
    "InvalidFilter",
    "InvalidTask",
    "NoTask",
    "Progress",
    "ResultTimeout",
    "Retry",
    "SubmissionError",
    "SubmissionRefused",
    "SubmissionUnknown",
    "TaskCancelled",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskFunction",
    "TaskStatus",
    "TaskTimeout",
    "UnknownTask",
    "WarrenError",
    "__version__",
    "call",
    "ctx",
    "task",
]

_HOMES: Final = {
    "AsyncClient": "common.client.aio",
    "AsyncHandle": "common.client.aio",
    "Client": "common.client.sync",
    "Handle": "common.client.sync",
    "Backoff": "common.options",
    "Call": "common.tasks",
    "TaskFunction": "common.tasks",
    "call": "common.tasks",
    "ctx": "common.context",
    "task": "common.tasks",
    "DeadLetter": "common.questions",
    "Progress": "common.questions",
    "TaskStatus": "common.questions",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'common' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "common.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

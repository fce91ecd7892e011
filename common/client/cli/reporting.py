"""What all commands of the client share: a client, output for people and programs, errors with exit codes.

The broker's address comes from the settings (``WARREN_AMQP_URL`` or a file), never from the command line, where other
users of the machine could read its password.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import click
import msgspec

from common.client.sync import Client
from common.errors import (
    InvalidFilter,
    InvalidQuota,
    InvalidTask,
    NotAllowed,
    ResultTimeout,
    SubmissionError,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    UnknownTask,
)

EXIT_TASK: Final = 1
"""The task failed, was cancelled or expired."""
EXIT_TIMEOUT: Final = 3
"""The wait ended; the task goes on."""
EXIT_UNKNOWN: Final = 4
"""The scheduler has no such task."""
EXIT_UNCONFIRMED: Final = 5
"""The submission was not confirmed."""
EXIT_FORBIDDEN: Final = 6
"""Only operators may do this."""

F = TypeVar("F", bound=Callable[..., Any])


def common_options(function: F) -> F:
    """``--json`` and ``--namespace``."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON; one object a line where there are many."),
        click.option("--namespace", help="Prefix of every name; by default the setting."),
    ):
        function = option(function)
    return function


def wait_option(default: float | None, name: str = "--timeout", what: str = "Seconds to wait") -> Callable[[F], F]:
    """How long to wait, by default for `default` seconds, or for ever."""
    shown = "for ever" if default is None else f"{default:g}"
    return click.option(name, type=click.FloatRange(min=0), default=default, help=f"{what}; by default {shown}.")


@contextmanager
def connected(namespace: str | None, *, as_json: bool) -> Iterator[Client]:
    """A client, and what its verbs raise turned into a message and an exit code (2 for a wrong command line)."""
    logging.basicConfig(format="warren: %(message)s", level=logging.WARNING)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # a lost connection is logged once by us, with its reason
    try:
        with Client(namespace=namespace) as client:
            yield client
    except (InvalidTask, InvalidFilter, InvalidQuota) as error:
        raise click.UsageError(str(error)) from None
    except NotAllowed as error:
        fail(EXIT_FORBIDDEN, as_json, str(error), {})
    except ResultTimeout as error:
        fail(EXIT_TIMEOUT, as_json, str(error), {"id": error.task_id, "state": "waiting"})
    except SubmissionError as error:
        fail(EXIT_UNCONFIRMED, as_json, str(error), {"id": error.ids[0], "state": "unconfirmed"})
    except UnknownTask as error:
        fail(EXIT_UNKNOWN, as_json, str(error), {"id": error.task_id, "state": "unknown"})
    except TaskError as error:
        fail(EXIT_TASK, as_json, str(error), _outcome(error))


def fail(code: int, as_json: bool, message: str, outcome: dict[str, Any]) -> NoReturn:
    """Say what went wrong, and end with this exit code."""
    if as_json:
        click.echo(to_json({**outcome, "message": message} if "error" not in outcome else outcome))
    else:
        click.echo(f"warren: {message}", err=True)
    raise click.exceptions.Exit(code)


def to_json(value: Any) -> str:
    """`value` as JSON on one line; of a message every field, so that programs can rely on them."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    return msgspec.json.encode(value).decode()


def _outcome(error: TaskError) -> dict[str, Any]:
    states = {TaskFailed: "failed", TaskCancelled: "cancelled", TaskExpired: "expired"}
    outcome: dict[str, Any] = {"id": error.task_id, "state": states.get(type(error), "failed")}
    if isinstance(error, TaskFailed):
        names = ("kind", "type", "message", "traceback")
        outcome["error"] = {name: getattr(error, name) for name in names}
    return outcome

"""``warren submit``, ``warren status`` and ``warren result``.

The broker's address comes from the settings (``WARREN_AMQP_URL`` or a file), never from the command line, where other
users of the machine could read its password.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

import click
import msgspec

from common.client.sync import Client, Handle
from common.errors import (
    InvalidTask,
    ResultTimeout,
    SubmissionError,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    UnknownTask,
)
from common.questions import TaskStatus

EXIT_TASK: Final = 1
"""The task failed, was cancelled or expired."""
EXIT_USAGE: Final = 2
"""The command line is wrong, or the task cannot be submitted as it is."""
EXIT_TIMEOUT: Final = 3
"""The wait ended; the task goes on."""
EXIT_UNKNOWN: Final = 4
"""The scheduler has no such task."""
EXIT_UNCONFIRMED: Final = 5
"""The submission was not confirmed."""

F = TypeVar("F", bound=Callable[..., Any])


def _common(function: F) -> F:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--namespace", help="Prefix of every name; by default the setting."),
    ):
        function = option(function)
    return function


def _timeout(default: float | None) -> Callable[[F], F]:
    shown = "for ever" if default is None else f"{default:g}"
    return click.option(
        "--timeout", type=click.FloatRange(min=0), default=default, help=f"Seconds to wait; by default {shown}."
    )


@click.command(
    epilog="Exit codes: 0 done, 1 the task failed, 2 wrong command line or task, 3 the wait ended, "
    "5 the submission was not confirmed."
)
@click.argument("name")
@click.argument("args", nargs=-1)
@click.option("--kwargs", metavar="JSON", help="Keyword arguments, as a JSON object.")
@click.option("--queue", help="Where it goes; by default 'default'.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 (last) to 9 (first); by default 4.")
@click.option("--id", "task_id", help="Its id, to submit the same again after an unknown outcome.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@_timeout(None)
@_common
def submit(
    name: str,
    args: tuple[str, ...],
    kwargs: str | None,
    queue: str | None,
    priority: int | None,
    task_id: str | None,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    namespace: str | None,
) -> None:
    """Submit the task NAME with ARGS, and print its id.

    An argument is taken as JSON where it is JSON, else as text: 2 is a number, '"2"' and two are text. Write -- before
    arguments that begin with a dash.
    """
    keywords = _object(kwargs)
    with _reporting(as_json), Client(namespace=namespace) as client:
        options = client.options(queue=queue, priority=priority, task_id=task_id)
        handle = options.submit(name, *map(_value, args), **keywords)
        if wait:
            _print_result(handle, timeout, as_json)
        else:
            click.echo(_json({"id": handle.id}) if as_json else handle.id)


@click.command(epilog="Exit codes: 0 done, 1 the task failed, 2 wrong command line, 3 the wait ended, 4 no such task.")
@click.argument("task_id", metavar="ID")
@_timeout(None)
@_common
def result(task_id: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Wait for the task with this ID and print its result."""
    with _reporting(as_json), Client(namespace=namespace) as client:
        _print_result(client.handle(task_id), timeout, as_json)


@click.command(epilog="Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered, 4 no such task.")
@click.argument("task_id", metavar="ID")
@_timeout(10.0)
@_common
def status(task_id: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Print how the task with this ID is now."""
    with _reporting(as_json), Client(namespace=namespace) as client:
        known = client.handle(task_id).status(timeout)
        click.echo(_json(known) if as_json else _described(known))


def _print_result(handle: Handle[Any], timeout: float | None, as_json: bool) -> None:
    value = handle.result(timeout)
    if as_json:
        click.echo(_json({"id": handle.id, "state": "succeeded", "result": value}))
    else:
        click.echo(value if isinstance(value, str) else _json(value))


@contextmanager
def _reporting(as_json: bool) -> Iterator[None]:
    """Turn what a task or its submission ended with into a message and an exit code."""
    logging.basicConfig(format="warren: %(message)s", level=logging.WARNING)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # a lost connection is logged once by us, with its reason
    try:
        yield
    except InvalidTask as error:
        raise click.UsageError(str(error)) from None
    except ResultTimeout as error:
        _fail(EXIT_TIMEOUT, as_json, str(error), {"id": error.task_id, "state": "waiting"})
    except SubmissionError as error:
        _fail(EXIT_UNCONFIRMED, as_json, str(error), {"id": error.ids[0], "state": "unconfirmed"})
    except UnknownTask as error:
        _fail(EXIT_UNKNOWN, as_json, str(error), {"id": error.task_id, "state": "unknown"})
    except TaskError as error:
        _fail(EXIT_TASK, as_json, str(error), _outcome(error))


def _outcome(error: TaskError) -> dict[str, Any]:
    states = {TaskFailed: "failed", TaskCancelled: "cancelled", TaskExpired: "expired"}
    outcome: dict[str, Any] = {"id": error.task_id, "state": states.get(type(error), "failed")}
    if isinstance(error, TaskFailed):
        names = ("kind", "type", "message", "traceback")
        outcome["error"] = {name: getattr(error, name) for name in names}
    return outcome


def _fail(code: int, as_json: bool, message: str, outcome: dict[str, Any]) -> NoReturn:
    if as_json:
        click.echo(_json({**outcome, "message": message} if "error" not in outcome else outcome))
    else:
        click.echo(f"warren: {message}", err=True)
    raise click.exceptions.Exit(code)


def _described(known: TaskStatus) -> str:
    lines = [f"{known.id}  {known.state}"]
    if known.note:
        lines.append(f"  {known.note}")
    where = [f"task {known.task}", f"queue {known.queue}", f"priority {known.priority}"]
    where += [f"attempt {known.attempt}"] if known.attempt else []
    where += [f"worker {known.worker}"] if known.worker else []
    lines.append("  " + ", ".join(where))
    for name in ("submitted", "dispatched", "finished"):
        at: float = getattr(known, f"{name}_at")
        if at:
            lines.append(f"  {name} {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S.%f} UTC")
    if known.error is not None:
        lines.append(f"  {known.error.kind}: {known.error.type}: {known.error.message}")
    return "\n".join(lines)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    value = _value(text)
    if not isinstance(value, dict):
        raise click.BadParameter("has to be a JSON object, such as '{\"x\": 1}'", param_hint="--kwargs")
    return value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()

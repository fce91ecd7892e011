"""``warren result`` and ``warren status``."""

from __future__ import annotations

import time
from typing import Any

import click

from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import bar, clock, printable, when
from common.client.sync import Handle
from common.questions import TaskStatus
from common.wire import ErrorInfo


@click.command(epilog="Exit codes: 0 done, 1 the task failed, 2 wrong command line, 3 the wait ended, 4 no such task.")
@click.argument("task_id", metavar="ID")
@wait_option(None)
@common_options
def result(task_id: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Wait for the task with this ID and print its result."""
    with connected(namespace, as_json=as_json) as client:
        print_result(client.handle(task_id), timeout, as_json)


@click.command(epilog="Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered, 4 no such task.")
@click.argument("task_id", metavar="ID")
@wait_option(10.0)
@common_options
def status(task_id: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Print how the task with this ID is now."""
    with connected(namespace, as_json=as_json) as client:
        known = client.handle(task_id).status(timeout)
        click.echo(to_json(known) if as_json else "\n".join(map(printable, described(known, time.time()))))


def print_result(handle: Handle[Any], timeout: float | None, as_json: bool) -> None:
    """Wait for the result, and print it."""
    value = handle.result(timeout)
    if as_json:
        click.echo(to_json({"id": handle.id, "state": "succeeded", "result": value}))
    else:
        click.echo(value if isinstance(value, str) else to_json(value))


def described(known: TaskStatus, now: float) -> list[str]:
    """Everything about a task, in lines; of the attempts only the last with its traceback."""
    lines = [f"{known.id}  {known.state}"]
    if known.note:
        lines.append(f"  {known.note}")
    where = [f"task {known.task}", f"queue {known.queue}", f"priority {known.priority}"]
    where += [f"attempt {known.attempt}"] if known.attempt else []
    where += [f"worker {known.worker}"] if known.worker else []
    lines.append("  " + ", ".join(where))
    if known.progress is not None:
        lines.append(f"  {bar(known.progress.done, known.progress.total)}  {known.progress.note}".rstrip())
    lines += [f"  {line}" for line in _marks(known)]
    for name in ("submitted", "due", "expires", "dispatched", "finished"):
        at: float = getattr(known, f"{name}_at")
        if at:
            lines.append(f"  {name:<10} {clock(at)}  {when(at, now)}")
    for number, attempt in enumerate(known.attempts, 1):
        of = f"attempt {attempt.attempt}" + (f" on {attempt.worker}" if attempt.worker else "")
        lines.append(f"  {of}, ended {clock(attempt.at)}")
        last = number == len(known.attempts)
        lines += [f"    {line}" for line in _error(attempt.error)[: None if last else 1]]
    if known.error is not None and not any(attempt.error == known.error for attempt in known.attempts):
        lines += [f"  {line}" for line in _error(known.error)]
    return lines


def _marks(known: TaskStatus) -> list[str]:
    marks = [f"key {known.key}"] if known.key else []
    marks += ["labels " + ", ".join(f"{name}={value}" for name, value in known.labels.items())] if known.labels else []
    marks += [f"the same task as {known.alias_of}"] if known.alias_of else []
    marks += [f"replay of {known.replay_of}"] if known.replay_of else []
    marks += [f"submitted by task {known.parent}"] if known.parent else []
    return marks


def _error(error: ErrorInfo | None) -> list[str]:
    if error is None:
        return ["no error was told"]
    return [f"{error.kind}: {error.type}: {error.message}", *(f"  {line}" for line in error.traceback.splitlines())]

"""``warren watch``."""

from __future__ import annotations

import time

import click

from common.client.cli.reporting import EXIT_TASK, common_options, connected, to_json, wait_option
from common.client.cli.tables import LiveLine, bar, printable, short_span
from common.client.updates import INTERVAL, Update
from common.questions import Progress, TaskStatus


@click.command(
    short_help="Follow a task to its end.",
    epilog="Exit codes: 0 it succeeded, 1 it did not, 2 wrong command line, 3 the wait ended, 4 no such task.",
)
@click.argument("task_id", metavar="ID")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=INTERVAL, show_default=True, help="Seconds between two looks."
)
@wait_option(None)
@common_options
def watch(task_id: str, interval: float, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Follow the task with this ID to its end: a bar on a terminal, else a line for each change.

    Interrupting it leaves the task alone. With --json each line is the status of the task, or {"progress": ...} when
    only that has changed.
    """
    line, known = LiveLine(quiet=as_json), TaskStatus(task_id, "unknown")
    with connected(namespace, as_json=as_json) as client:
        try:
            for update in client.handle(task_id).updates(timeout, interval=interval):
                known = update if isinstance(update, TaskStatus) else _with(known, update)
                if as_json:
                    click.echo(_machine(task_id, update))
                elif line.shown:
                    line.show(_line(known))
                else:
                    click.echo(printable(_line(known)))
        finally:
            if line.shown and known.state != "unknown":
                line.clear()
                click.echo(printable(_line(known)))
    if known.error is not None and not as_json and known.state == "failed":
        click.echo(printable(f"  {known.error.kind}: {known.error.type}: {known.error.message}"))
    if known.state != "succeeded":
        raise click.exceptions.Exit(EXIT_TASK)


def _with(known: TaskStatus, progress: Progress) -> TaskStatus:
    known.progress = progress
    return known


def _machine(task_id: str, update: Update) -> str:
    return to_json(update if isinstance(update, TaskStatus) else {"id": task_id, "progress": update})


def _line(known: TaskStatus) -> str:
    parts = [f"{known.state:<10}"]
    if known.progress is not None:
        parts += [bar(known.progress.done, known.progress.total), known.progress.note]
    elif known.state == "scheduled" and known.due_at:
        parts.append(f"due in {short_span(max(0.0, known.due_at - time.time()))}")
    elif known.finished_at and known.dispatched_at:
        parts.append(f"after {known.finished_at - known.dispatched_at:.3g} s")
    parts.append(f"attempt {known.attempt}" if known.attempt > 1 else "")
    parts.append("" if known.progress else known.note)
    return "  ".join(part for part in parts if part).rstrip()

"""``warren tasks list``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click

from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import table, when, width
from common.client.cli.values import which, which_options
from common.client.inquiries import ANSWER_TIMEOUT
from common.questions import TaskStatus

_PAGE = 200
"""Rows that share their columns' widths."""


@click.group(short_help="List tasks.")
def tasks() -> None:
    """Look at many tasks."""


@tasks.command("list", epilog="Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered.")
@which_options()
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Tasks at most.")
@click.option("--all", "everything", is_flag=True, help="Without a limit.")
@wait_option(ANSWER_TIMEOUT, what="Seconds to wait for each answer")
@common_options
def list_tasks(
    limit: int, everything: bool, timeout: float | None, as_json: bool, namespace: str | None, **given: Any
) -> None:
    """List your tasks, the newest first: those to which all options apply."""
    with connected(namespace, as_json=as_json) as client:
        words = which(given)
        found = client.tasks(limit=None if everything else limit, timeout=timeout, **words)
        shown = _print_lines(found) if as_json else _print_table(found)
    if not as_json and shown == 0:
        click.echo("no such tasks", err=True)
    elif not as_json and shown == limit and not everything:
        click.echo(f"the newest {shown:,}; --limit or --all shows more", err=True)


def _print_lines(found: Iterable[TaskStatus]) -> int:
    shown = 0
    for task in found:
        click.echo(to_json(task))
        shown += 1
    return shown


def _print_table(found: Iterable[TaskStatus]) -> int:
    shown, page = 0, list[TaskStatus]()
    for task in found:
        page.append(task)
        shown += 1
        if len(page) == _PAGE:
            _print_page(page, headed=shown == _PAGE)
            page = []
    if page:
        _print_page(page, headed=shown <= _PAGE)
    return shown


def _print_page(page: list[TaskStatus], *, headed: bool) -> None:
    now = time.time()
    rows = [("ID", "STATE", "WHEN", "TASK", "QUEUE", "ABOUT")]
    rows += [(task.id, task.state, when(_at(task), now), task.task, task.queue, _about(task)) for task in page]
    columns = width()
    if columns < 100 or not any(row[5] for row in rows[1:]):
        rows = [(*row[:5], "") for row in rows]
    for line in table(rows, columns, shrink=(3, 4, 5))[0 if headed else 1 :]:
        click.echo(line)


def _at(task: TaskStatus) -> float:
    """When it comes, or when it came to the state that it is in."""
    if task.state == "scheduled":
        return task.due_at
    return task.finished_at or task.dispatched_at or task.submitted_at


def _about(task: TaskStatus) -> str:
    if task.progress is not None and task.progress.total:
        return f"{int(100 * task.progress.done / task.progress.total)} % {task.progress.note}".rstrip()
    if task.error is not None:
        return f"{task.error.type}: {task.error.message}"
    return task.note

"""``warren queues``, ``warren queue show`` and ``warren workers``: how everything is now."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import click

from common.administration import QueueReport, WorkerReport, WorkerState
from common.client.cli.limiting import queue
from common.client.cli.quota_values import described
from common.client.cli.reporting import EXIT_UNKNOWN, common_options, connected, fail, to_json, wait_option
from common.client.cli.tables import coloured, cut, number, printable, short_span, table, when, width

WAIT: Final = 10.0
"""Seconds to wait for an answer without a word."""
SUMMED: Final = 20
"""Workers in a list at most that says no sum at its end."""
CODES: Final = "Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered."
_COLOURS: Final = {
    WorkerState.ALIVE: "green",
    WorkerState.PAUSED: "yellow",
    WorkerState.DRAINING: "yellow",
    WorkerState.SILENT: "red",
    WorkerState.LOST: "red",
}


@click.command(short_help="Show the queues: what waits, comes and goes.", epilog=CODES)
@click.argument("names", metavar="[QUEUE]...", nargs=-1)
@wait_option(WAIT)
@common_options
def queues(names: tuple[str, ...], timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Show all queues, or these: what waits, comes and goes, and how long it will take.

    \b
    QUEUED   wait in the store          LATER    are scheduled for later
    SENT     are on their way           RUNNING  run at a worker
    OLDEST   has waited for so long     DRAIN    until what is queued is done
    IN/S, DONE/S  over the last minute
    WORKERS  that serve it, of as many as it would take
    """
    with connected(namespace, as_json=as_json) as client:
        reports = client.queues(*names, timeout=timeout)
    if as_json:
        for report in reports:
            click.echo(to_json(report))
    elif reports:
        _print_queues(reports)
    else:
        click.echo("no such queues" if names else "no queues: nothing was submitted, and no worker is alive", err=True)


@queue.command("show", epilog=f"{CODES[:-1]}, 4 no such queue.")
@click.argument("name", metavar="QUEUE")
@wait_option(WAIT)
@common_options
def show(name: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Show everything about one queue."""
    with connected(namespace, as_json=as_json) as client:
        reports = client.queues(name, timeout=timeout)
    if not reports:
        fail(EXIT_UNKNOWN, as_json, f"there is no queue {name!r}", {"name": name})
    click.echo(to_json(reports[0]) if as_json else "\n".join(map(printable, _lines(reports[0]))))


@click.command(short_help="Show the workers, and what they run.", epilog=CODES)
@click.option("--running", is_flag=True, help="With the tasks that each of them runs.")
@wait_option(WAIT)
@common_options
def workers(running: bool, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Show the workers, and for ten minutes those that were lost.

    \b
    BUSY     tasks that run, of as many as may
    LOAD     of the machine over a minute, and its cores
    LAG      by which the event loop of coroutine functions was late
    HEARD    since the last beat
    """
    with connected(namespace, as_json=as_json) as client:
        reports = client.workers(timeout=timeout)
    if as_json:
        for report in reports:
            click.echo(to_json(report))
    elif reports:
        _print_workers(reports, running=running)
    else:
        click.echo("no worker is alive, and none was lost lately", err=True)


def _print_queues(reports: Sequence[QueueReport]) -> None:
    columns = width()
    rows = [("QUEUE", "QUEUED", "LATER", "SENT", "RUNNING", "OLDEST", "IN/S", "DONE/S", "DRAIN", "WORKERS")]
    rows += [
        (
            report.name,
            f"{report.queued:,}",
            f"{report.scheduled:,}",
            f"{report.dispatched:,}",
            f"{report.running:,}",
            short_span(report.oldest) if report.queued else "-",
            number(report.accepted),
            number(report.finished),
            _drain(report),
            f"{report.workers}/{report.recommended_workers}",
        )
        for report in reports
    ]
    heading, *lines = table(rows, columns, shrink=(0,), right=range(1, 10))
    click.echo(heading)
    for report, line in zip(reports, lines, strict=True):
        click.echo(coloured(line, "yellow" if report.note else None))
        if report.note:
            click.echo(cut(f"  {report.note}", columns))


def _drain(report: QueueReport) -> str:
    if not report.queued:
        return "-"
    return "never" if report.drain_seconds is None else short_span(report.drain_seconds)


def _lines(report: QueueReport) -> list[str]:
    lines = [report.name]
    if report.note:
        lines.append(f"  {report.note}")
    states = [f"{report.queued:,} queued", f"{report.scheduled:,} scheduled"]
    states += [f"{report.dispatched:,} dispatched", f"{report.running:,} running"]
    lines.append(f"  tasks      {', '.join(states)}")
    if report.unrunnable:
        lines.append(f"             {report.unrunnable:,} of the queued can be run by no live worker")
    if report.limited:
        lines.append(f"             {report.limited:,} of the queued are held back by a pause or a limit")
    if report.queued:
        lines.append(f"  oldest     has waited for {short_span(report.oldest)}")
    lines.append(f"  traffic    {number(report.accepted)}/s in, {number(report.finished)}/s done")
    if report.queued:
        drain = report.drain_seconds
        lines.append(f"  drained    {'never' if drain is None else f'in {short_span(drain)}'}, as it is now")
    lines.append(f"  workers    {report.workers} with {report.slots} slots; {report.recommended_workers} recommended")
    lines.append(f"  window     {report.window:,} tasks may be out")
    lines.append(f"  quota      {'none' if report.quota is None else described(report.quota)}")
    return lines


def _print_workers(reports: Sequence[WorkerReport], *, running: bool) -> None:
    columns = width()
    rows = [("WORKER", "STATE", "BUSY", "LOAD", "MEMORY", "LAG", "HEARD", "QUEUES")]
    rows += [
        (
            report.worker,
            str(report.state),
            "-" if report.state is WorkerState.LOST else f"{_busy(report)}/{report.slots}",
            f"{report.load.load_average:.1f}/{report.load.cores}" if report.load.cores else "",
            _memory(report.load.memory),
            _lag(report.load.loop_lag),
            f"{report.heard:.1f}s" if report.heard < 10 else short_span(report.heard),
            ",".join(report.queues) + (f" ({','.join(report.labels)})" if report.labels else ""),
        )
        for report in reports
    ]
    heading, *lines = table(rows, columns, shrink=(7, 0), right=(2, 3, 4, 5, 6))
    click.echo(heading)
    now = time.time()
    for report, line in zip(reports, lines, strict=True):
        click.echo(line.replace(f" {report.state} ", f" {coloured(report.state, _COLOURS[report.state])} ", 1))
        if report.load.lowered:
            click.echo(cut(f"  {report.slots} of {report.capacity} slots: {report.load.lowered}", columns))
        if running:
            _print_running(report, now, columns)
    if len(reports) > SUMMED:
        click.echo(_sum(reports))


def _busy(report: WorkerReport) -> int:
    # A scheduler of an earlier version does not say it.
    return report.busy or len(report.running)


def _sum(reports: Sequence[WorkerReport]) -> str:
    """What a long list comes to, where one looks first: at its end, above the prompt."""
    states = Counter(report.state for report in reports)
    live = [report for report in reports if report.state is not WorkerState.LOST]
    counted = ", ".join(f"{states[state]:,} {state}" for state in WorkerState if states[state])
    busy, slots = sum(map(_busy, live)), sum(report.slots for report in live)
    return f"{len(reports):,} workers: {counted}; {busy:,} of {slots:,} slots busy"


def _print_running(report: WorkerReport, now: float, columns: int) -> None:
    if report.started_at:
        click.echo(
            cut(f"  version {report.version}, pid {report.pid}, started {when(report.started_at, now)}", columns)
        )
    for attempt in report.running:
        again = f", attempt {attempt.attempt}" if attempt.attempt > 1 else ""
        about = f"{attempt.id or 'a task'}  {attempt.task}{again}".rstrip()
        click.echo(cut(f"  {short_span(attempt.age):>6}  {about}", columns))
    if report.busy > len(report.running):
        click.echo(f"          and {report.busy - len(report.running):,} more, which have run for less long")


def _memory(count: int) -> str:
    if not count:
        return ""
    return f"{count / 2**30:.1f}G" if count >= 2**30 else f"{count / 2**20:.0f}M"


def _lag(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds >= 1 else f"{seconds * 1000:.0f}ms"

"""The tables in the terminal, and the one sentence about where they come from."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Delayed, Results, Workload

WORKLOADS = {
    "bulk": "no-op tasks, all results",
    "single": "submitted one by one, 200 coroutines",
    "threads": "as plain functions in threads",
}
BUDGETS = {"bulk": 20_000, "single": 10_000, "threads": 8_000, "accepted": 80_000, "p50": 2.0, "p99": 5.0}
BACKLOG_SHARE, BACKLOG_MB = 0.8, 250.0
LATE_MS = 100.0
PEER_BUDGETS = {"celery": 15.0, "dramatiq": 8.0, "taskiq": 10.0}

Read = Callable[[Workload], float | None]


def print_results(console: Console, results: Results) -> None:
    """Print the absolute figures, the ratios, and what each process needed."""
    machine = results.machine
    console.print(
        f"\n{machine.cores} cores, {machine.processor}, {machine.python}, {machine.broker}, "
        f"fsync p50 {machine.fsync_ms:.2f} ms; median of {results.rounds} interleaved rounds of {results.seconds:g} s"
    )
    console.print(_speed(results))
    console.print(_processes(results))
    for name, system in results.systems.items():
        versions = {"celery": "celery", "dramatiq": "dramatiq", "taskiq": "taskiq"}.get(name, "warren")
        line = f"{system.label} {results.versions.get(versions, '')}: {system.note}"
        console.print(f"{system.label} was skipped: {system.skipped}" if system.skipped else line, soft_wrap=True)


def _speed(results: Results) -> Table:
    """One row a measurement, one column a system; behind a peer's figure, how many times Warren's it is."""
    table = Table(title="Warren and its peers, same run, same broker", title_justify="left")
    table.add_column("measured")
    table.add_column("budget", justify="right")
    names = [name for name, system in results.systems.items() if system.workloads]
    for name in names:
        table.add_column(results.systems[name].label, justify="right")
    for workload, title in WORKLOADS.items():
        cells = [_rate(results, name, workload) for name in names]
        if any(cells):
            table.add_row(f"{title} (tasks/s)", f"{BUDGETS[workload]:,}", *cells)
    rows: tuple[tuple[str, str, str, Read, str], ...] = (
        ("acceptance (tasks/s)", "bulk", "accepted", lambda workload: workload.accepted, ",.0f"),
        ("round trip, idle, p50 (ms)", "round_trip", "p50", lambda workload: workload.p50_ms, ".2f"),
        ("round trip, idle, p99 (ms)", "round_trip", "p99", lambda workload: workload.p99_ms, ".2f"),
    )
    for title, workload, budget, read, form in rows:
        cells = [_cell(results, name, workload, read, form) for name in names]
        if any(cells):
            table.add_row(title, f"{BUDGETS[budget]:,g}", *cells)
    if results.backlog is not None:
        _add_backlog(table, results, len(names))
    if results.delayed is not None:
        _add_delayed(table, results.delayed, len(names))
    return table


def _add_backlog(table: Table, results: Results, columns: int) -> None:
    backlog = results.backlog
    assert backlog is not None
    padding = [""] * (columns - 1)
    least = _budget_of_drain(results)
    table.add_row(f"drain of {backlog.tasks:,} queued (tasks/s)", least, f"{backlog.rate:,.0f}", *padding)
    table.add_row("  scheduler's peak (MB)", f"< {BACKLOG_MB:g}", f"{backlog.scheduler_peak_mb:,.0f}", *padding)


def _add_delayed(table: Table, delayed: Delayed, columns: int) -> None:
    padding = [""] * (columns - 1)
    late = f"{delayed.p50_ms:.1f} / {delayed.p99_ms:.1f}"
    table.add_row(f"due at {delayed.rate:,}/s: late by, p50 / p99 (ms)", f"{LATE_MS:g}", late, *padding)
    title = f"  scheduler's peak (MB), {delayed.tasks:,} far off"
    table.add_row(title, f"< {BACKLOG_MB:g}", f"{delayed.scheduler_peak_mb:,.0f}", *padding)


def _budget_of_drain(results: Results) -> str:
    system = results.systems.get("warren")
    bulk = system.workloads.get("bulk") if system else None
    return f"{bulk.rate * BACKLOG_SHARE:,.0f}" if bulk and bulk.rate else ""


def _rate(results: Results, name: str, workload: str) -> str:
    own = _cell(results, name, workload, lambda figures: figures.rate, ",.0f")
    peer = "" if name.startswith("warren") else _cell(results, name, "bulk", lambda figures: figures.rate, ",.0f")
    ratio = results.ratios.get(workload, {}).get(name)
    return f"{peer} ({ratio:.1f}x)" if peer and ratio else own


def _cell(results: Results, name: str, workload: str, read: Read, form: str) -> str:
    figures = results.systems[name].workloads.get(workload)
    value = read(figures) if figures else None
    return "" if value is None else format(value, form)


def _processes(results: Results) -> Table:
    """Memory and processor time of each process while the no-op tasks ran."""
    table = Table(title="What the no-op tasks cost", title_justify="left")
    for heading in ("system", "process", "peak memory (MB)", "processor time a task (us)"):
        table.add_column(heading, justify="left" if heading in ("system", "process") else "right")
    for system in results.systems.values():
        bulk = system.workloads.get("bulk")
        for name, usage in bulk.usage.items() if bulk else ():
            share = usage.cpu_seconds / bulk.tasks * 1e6 if bulk else 0.0
            table.add_row(system.label, name, f"{usage.peak_mb:,.0f}", f"{share:,.0f}")
        table.add_section()
    return table

"""The picture of a run, for the README: throughput, round trip, and where the processor time goes."""

from pathlib import Path
from typing import Any

from tests.bench.figures import Results, SystemFigures

_INK, _MUTED, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
_OURS, _OURS_OTHER, _PEER = "#e8590c", "#f5a971", "#9aa5b1"
_PROCESSES = {
    "client": "#4c6ef5",
    "scheduler": "#e8590c",
    "worker": "#12b886",
    "broker": "#9aa5b1",
    "redis": "#c2255c",
}
_WAYS = {"bulk": "submit_many", "single": "one by one", "threads": "in threads"}


def draw(results: Results, file: Path) -> None:
    """Draw the results into a PNG file; without matplotlib nothing is drawn."""
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "text.color": _INK, "axes.labelcolor": _MUTED})
    measured = {name: system for name, system in results.systems.items() if system.workloads}
    figure = plt.figure(figsize=(11, 7.4), dpi=160, facecolor="white")
    grid = figure.add_gridspec(
        2, 2, height_ratios=(1.35, 1), hspace=0.42, wspace=0.34, left=0.19, right=0.955, top=0.845, bottom=0.115
    )
    _throughput(figure.add_subplot(grid[0, :]), measured)
    _round_trip(figure.add_subplot(grid[1, 0]), measured)
    _processor_time(figure.add_subplot(grid[1, 1]), measured)
    figure.text(0.03, 0.95, "Warren beside Celery, Dramatiq and Taskiq", fontsize=17, fontweight="bold")
    figure.text(0.03, 0.912, _setting(results), fontsize=9.5, color=_MUTED)
    figure.text(0.03, 0.02, _small_print(results), fontsize=7.5, color=_MUTED)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)


def _throughput(axes: Any, measured: dict[str, SystemFigures]) -> None:
    bars: list[tuple[str, float, str, list[float]]] = []
    for name, system in measured.items():
        for workload, way in _WAYS.items():
            figures = system.workloads.get(workload)
            if figures is not None and figures.rate is not None:
                ours = name.startswith("warren")
                label = f"{system.label} · {way}" if name == "warren" else system.label
                color = (_OURS if (name, workload) == ("warren", "bulk") else _OURS_OTHER) if ours else _PEER
                bars.append((label, figures.rate, color, figures.rates))
    if not bars:
        axes.set_visible(False)
        return
    first = bars[0][1] if "warren" in measured else None
    longest = max(max(rates) for *_, rates in bars)
    for place, (_, rate, color, rates) in enumerate(bars):
        axes.barh(place, rate, color=color, height=0.66, zorder=2)
        axes.plot(rates, [place] * len(rates), "|", color=_INK, alpha=0.45, markersize=7, markeredgewidth=1, zorder=3)
        peer = f"   Warren: {first / rate:.1f}x" if first and color == _PEER else ""
        right = max(rate, *rates)
        axes.text(right + longest * 0.012, place, f"{rate:,.0f}", va="center", fontweight="bold", color=_INK)
        if peer:
            axes.text(right + longest * 0.075, place, peer, va="center", color=_MUTED)
    _finish(axes, "No-op tasks a second, first submission to last result", [label for label, *_ in bars])
    axes.set_xlim(0, longest * 1.16)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _round_trip(axes: Any, measured: dict[str, SystemFigures]) -> None:
    rows = [
        (system.label, figures.p50_ms, figures.p99_ms)
        for system in measured.values()
        if (figures := system.workloads.get("round_trip")) and figures.p50_ms is not None and figures.p99_ms is not None
    ]
    if not rows:
        axes.set_visible(False)
        return
    longest = max(p99 for _, _, p99 in rows)
    for place, (label, p50, p99) in enumerate(rows):
        color = _OURS if label.startswith("Warren") else _PEER
        axes.plot([p50, p99], [place, place], color=color, linewidth=3, alpha=0.45, zorder=2, solid_capstyle="round")
        axes.plot(p50, place, "o", color=color, markersize=9, zorder=3)
        axes.plot(p99, place, "o", markerfacecolor="white", markeredgecolor=color, markersize=8, zorder=3)
        axes.text(p99 + longest * 0.04, place, f"{p50:.1f} / {p99:.1f}", va="center", fontsize=9)
    _finish(axes, "Round trip of one task, idle: p50 ● p99 ○, ms", [_short(label) for label, *_ in rows])
    axes.set_xlim(0, longest * 1.28)


def _processor_time(axes: Any, measured: dict[str, SystemFigures]) -> None:
    rows = [(system.label, system.workloads["bulk"]) for system in measured.values() if "bulk" in system.workloads]
    if not rows:
        axes.set_visible(False)
        return
    longest = max(figures.cpu_us or 0.0 for _, figures in rows)
    for place, (_, figures) in enumerate(rows):
        left = 0.0
        for process, color in _PROCESSES.items():
            usage = figures.usage.get(process)
            if usage is not None:
                share = usage.cpu_seconds / figures.tasks * 1e6
                axes.barh(place, share, left=left, color=color, height=0.62, zorder=2)
                left += share
        axes.text(left + longest * 0.02, place, f"{left:,.0f}", va="center", fontsize=9, fontweight="bold")
    used = [process for process in _PROCESSES if any(process in figures.usage for _, figures in rows)]
    for process in used:
        axes.barh(0, 0, color=_PROCESSES[process], label=process)
    columns = len(used)
    axes.legend(
        ncols=columns,
        frameon=False,
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.42, -0.12),
        handlelength=0.9,
        columnspacing=1.0,
    )
    _finish(axes, "Processor time of one task, microseconds", [_short(label) for label, _ in rows])
    axes.set_xlim(0, longest * 1.16)


def _finish(axes: Any, title: str, labels: list[str]) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(length=0, colors=_MUTED, labelsize=8.5)
    axes.tick_params(axis="y", colors=_INK, labelsize=9.5)
    axes.grid(axis="x", color=_GRID, zorder=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _short(label: str) -> str:
    return label.replace("Warren, commits ", "Warren, ")


def _setting(results: Results) -> str:
    machine = results.machine
    return (
        f"{machine.cores} cores for everything (broker, services, client) · {machine.broker} · {machine.python} · "
        f"fsync {machine.fsync_ms:.2f} ms · median of {results.rounds} interleaved rounds · {results.date[:10]}"
    )


def _small_print(results: Results) -> str:
    names = {"warren": "Warren", "celery": "Celery", "dramatiq": "Dramatiq", "taskiq": "Taskiq"}
    versions = [f"{label} {results.versions[name]}" for name, label in names.items() if name in results.versions]
    terms = "Late acks, publisher confirms, persistent messages and durable queues for all; ticks are single rounds."
    return f"{', '.join(versions)}. {terms}"

"""The figures of mixes of short and long tasks: as a table, and as JSON."""

import statistics
from collections.abc import Iterable

import msgspec
from rich.table import Table

from tests.bench.infrastructure import Machine
from tests.support.scheduling import Mix


class Row(msgspec.Struct, omit_defaults=True):
    """How a mix went on one system, in seconds.

    Attributes:
        system: in words.
        all_done: after so many seconds all had ended.
        throughput: tasks a second until then.
        bound: the least that any assignment could have taken.
        over: by what share it was longer than that.
        short_mean, short_p50, short_p99: how long the short ones waited for their start.
        long_mean: how long the long ones did.
        load: of the machine, over a minute, at the beginning and at the end; None: it was simulated.
    """

    system: str
    all_done: float
    throughput: float
    bound: float
    over: float
    short_mean: float
    short_p50: float
    short_p99: float
    long_mean: float
    load: tuple[float, float] | None = None


class RealMixes(msgspec.Struct):
    """What one run on a real broker came to; `over` is for how many seconds tasks came, 0: all at the start."""

    date: str
    machine: Machine
    short: int
    long: int
    over: float
    systems: list[Row]


def row(system: str, mix: Mix, load: tuple[float, float] | None = None) -> Row:
    """The figures of a mix."""
    quantiles = statistics.quantiles(mix.short, n=100)
    return Row(
        system,
        round(mix.makespan, 3),
        round((len(mix.short) + len(mix.long)) / mix.makespan, 1),
        round(mix.ideal, 3),
        round(mix.over, 4),
        round(statistics.mean(mix.short), 4),
        round(quantiles[49], 4),
        round(quantiles[98], 4),
        round(statistics.mean(mix.long), 4),
        None if load is None else (round(load[0], 1), round(load[1], 1)),
    )


def mix_table(title: str, rows: Iterable[Row]) -> Table:
    """The rows for people."""
    heading = (
        "",
        "all done after",
        "tasks/s",
        "the bound",
        "over it",
        "short wait: mean",
        "p50",
        "p99",
        "long: mean",
        "load",
    )
    table = Table(*heading, title=title)
    for each in rows:
        table.add_row(
            each.system,
            f"{each.all_done:.1f} s",
            f"{each.throughput:.1f}",
            f"{each.bound:.1f} s",
            f"{each.over:.1%}",
            f"{each.short_mean:.2f} s",
            f"{each.short_p50:.3f} s",
            f"{each.short_p99:.2f} s",
            f"{each.long_mean:.2f} s",
            "simulated" if each.load is None else "{:.1f} to {:.1f}".format(*each.load),
        )
    return table

"""Text that reads well on a terminal of 80 columns: tables, times, a bar."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import click

BAR: Final = 30
"""Columns of a progress bar."""
_WIDEST: Final = 10_000
_SPANS: Final = (("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def width() -> int:
    """Columns that a line may take; without a terminal it is not cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST


def printable(text: str) -> str:
    """`text` on one line, without what would steer a terminal: a task says in its own words how it failed."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def cut(text: str, columns: int) -> str:
    """`text` on one line of at most so many columns."""
    line = printable(text)
    return line if len(line) <= columns else line[: max(0, columns - 1)] + "…"


def table(
    rows: Sequence[Sequence[str]], columns: int, *, shrink: Sequence[int], right: Sequence[int] = ()
) -> list[str]:
    """The rows as lines, with columns two spaces apart.

    Args:
        rows: cells; the first row is the heading.
        columns: the longest line.
        shrink: which columns may be cut to make it fit, the widest of them first.
        right: which columns end at the same place, as numbers do.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > columns:
        widest = max(shrink, key=lambda number: widths[number])
        if widths[widest] <= 4:
            break
        widths[widest] -= 1
    return [
        "  ".join(
            cut(cell, size).rjust(size) if number in right else cut(cell, size).ljust(size)
            for number, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def coloured(text: str, colour: str | None) -> str:
    """`text` in a colour on a terminal, unless ``NO_COLOR`` is set (https://no-color.org)."""
    if colour is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour)


def number(value: float) -> str:
    """A rate or a count in few letters: ``0.05``, ``1.2``, ``1,234``; nothing for nothing."""
    if not value:
        return "0"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def when(at: float, now: float) -> str:
    """``5m ago`` or ``in 2h``; nothing for no time at all."""
    if not at:
        return ""
    span = short_span(abs(at - now))
    return f"in {span}" if at > now else f"{span} ago"


def short_span(seconds: float) -> str:
    """The largest unit that fits, and the next one while there are few of it: ``45s``, ``5m10s``, ``12h``, ``3d``."""
    for number, (unit, size) in enumerate(_SPANS):
        count, rest = divmod(int(seconds), size)
        if count:
            smaller = _SPANS[number + 1] if number + 1 < len(_SPANS) else ("", 1)
            more = f"{rest // smaller[1]}{smaller[0]}" if count < 10 and rest >= smaller[1] and smaller[0] else ""
            return f"{count}{unit}{more}"
    return "0s"


def clock(at: float) -> str:
    """A point in time, in this machine's zone, with the offset."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S%z")


def bar(done: float, total: float) -> str:
    """``[██████░░░░]  60 %``; only what is done where the total is not known."""
    if total <= 0:
        return f"{done:,.10g} done"
    share = min(1.0, max(0.0, done / total))
    full, empty = ("█", "░") if (sys.stdout.encoding or "").lower().startswith("utf") else ("#", "-")
    filled = int(share * BAR)
    return f"{full * filled}{empty * (BAR - filled)} {int(share * 100):3d} %  {done:,.10g} of {total:,.10g}"


class LiveLine:
    """One line of a terminal that is written over. Without a terminal, or with `quiet`, it shows nothing.

    Attributes:
        shown: it is on a terminal.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.shown = not quiet and sys.stdout.isatty()

    def show(self, text: str) -> None:
        """Put `text` in the place of what was there."""
        if self.shown:
            click.echo(f"\r\x1b[K{cut(text, width() - 1)}", nl=False)

    def clear(self) -> None:
        """Leave an empty line."""
        if self.shown:
            click.echo("\r\x1b[K", nl=False)

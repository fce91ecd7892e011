"""The terminal: progress where it can move, plain lines where it cannot, and the score of each system side by side."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.chaos.score import Score

_LINE_EVERY = 15.0  # seconds between two lines of progress where nothing moves

_ROWS = (
    ("confirmed", "confirmed", False),
    ("done, with the right result", "done", False),
    ("cancelled before that", "cancelled", False),
    ("lost", "lost", True),
    ("stuck in a queue at the end", "stuck", True),
    ("wrong result", "wrong", True),
    ("ran more often than needed", "ran_twice", False),
    ("runs that were too many", "extra_runs", False),
    ("ran after its cancel, before it was due", "cancelled_ran", True),
    ("submissions made again", "unconfirmed", False),
    ("faults", "faults", False),
    ("faults without an object there", "no_object", False),
)


class Screen:
    """Prints to standard output; colours are left out where there is no terminal, and with `NO_COLOR`."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._printed_at = 0.0

    def title(self, text: str) -> None:
        """A system begins."""
        self._line(f"\n{text}", "bold")

    def phase(self, text: str) -> None:
        """See `tests.chaos.run.Watcher`."""
        self._line(f"{time.strftime('%H:%M:%S')}  {text}", "cyan")

    def fault(self, at: float, text: str, met: bool) -> None:
        """See `tests.chaos.run.Watcher`."""
        self._line(f"{at:8.1f}  {text}{'' if met else ' (there is none)'}", "red" if met else "dim")

    def progress(self, confirmed: int, done: int, total: int) -> None:
        """See `tests.chaos.run.Watcher`."""
        text = f"{confirmed} of {total} confirmed, {done} done"
        if self._moves:
            self._console.print(f"          {text}", end="\r", style="dim")
        elif time.monotonic() - self._printed_at > _LINE_EVERY:
            self._printed_at = time.monotonic()
            self._line(f"          {text}", "dim")

    def scores(self, scores: Sequence[Score]) -> None:
        """The table, and what is wrong."""
        table = Table(box=None, pad_edge=False)
        table.add_column("")
        for score in scores:
            table.add_column(score.system, justify="right")
        for label, field, bad in _ROWS:
            values = [getattr(score, field) for score in scores]
            table.add_row(label, *(f"[red]{value}[/red]" if bad and value else str(value) for value in values))
        table.add_row("all done after the last fault, s", *(f"{score.finish:.0f}" for score in scores))
        table.add_row("by itself", *("yes" if score.by_itself else "[red]no[/red]" for score in scores))
        self._console.print()
        self._console.print(table)
        for score in scores:
            self._line(f"\n{score.system}: {'nothing is wrong' if not score.problems else 'WRONG'}", "bold")
            for problem in score.problems:
                self._line(f"  {problem}", "red")
            for lack in score.lacks:
                self._line(f"  has no notion of: {lack}", "dim")

    def _line(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, soft_wrap=True)

"""What people see: steps, a progress bar, results. On a terminal in colour and moving, else plain lines."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_LABEL: Final = 12  # columns for the names of steps
_PLAIN_WIDTH: Final = 100
_TENTHS: Final = 10  # lines of progress where nothing can move


class Bar(Protocol):
    """The progress of the job."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, done: int, note: str) -> None:
        """Show that so many tasks are done, and a few words on the workers."""


class Screen:
    """Prints to standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal
        if not self._console.is_terminal:
            # A file has no width; what is written to it must not be folded.
            self._console = Console(highlight=False, width=_PLAIN_WIDTH, soft_wrap=True)

    def say(self, text: str = "", style: str = "") -> None:
        """Print one line."""
        self._console.print(escape(text), style=style or None)

    def title(self, text: str) -> None:
        """Print the heading of a part."""
        self._console.print(f"\n[bold]{escape(text)}[/bold]")

    def fact(self, label: str, text: str, seconds: float | None = None) -> None:
        """Print one line of a part: a name, what there is to say, and how long it took."""
        took = f" [dim]{seconds:.1f} s[/dim]" if seconds is not None else ""
        self._print(f"  [cyan]{escape(label):<{_LABEL}}[/cyan]{escape(text)}{took}")

    def verdict(self, good: bool, text: str) -> None:
        """Print the outcome of one check."""
        mark = "[bold green]ok  [/bold green]" if good else "[bold red]WRONG[/bold red]"
        self._print(f"  {mark} {escape(text)}")

    def verbatim(self, lines: Sequence[str]) -> None:
        """Print lines of another program as they are."""
        for line in lines:
            self._print(f"  [dim]{escape(line)}[/dim]")

    def words(self, counts: Sequence[tuple[str, int]]) -> None:
        """Print words with their counts, the most frequent first."""
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=_LABEL)
        table.add_column(justify="right")
        table.add_column()
        block = "#" if self._console.options.ascii_only else "█"
        for word, count in counts:
            length = max(1, round(40 * count / counts[0][1]))
            table.add_row(f"  {escape(word)}", f"{count:,}", f"[cyan]{block * length}[/cyan]")
        self._console.print(table)

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show for the time of the block what takes a while."""
        if not self._moves:
            self._print(f"  [dim]{escape(text)}[/dim]")
            yield
            return
        with self._console.status(escape(text), spinner="line"):
            yield

    def bar(self, total: int) -> Bar:
        """Return the progress bar of a job of so many tasks; enter it to show it."""
        return _MovingBar(self._console, total) if self._moves else _PlainBar(self, total)

    def _print(self, markup: str) -> None:
        self._console.print(markup, soft_wrap=not self._console.is_terminal)


class _MovingBar:
    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("  counting"),
            BarColumn(None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, done: int, note: str) -> None:
        self._progress.update(self._task, completed=done, note=note)


class _PlainBar:
    def __init__(self, screen: Screen, total: int) -> None:
        self._screen = screen
        self._total = total
        self._began = time.monotonic()
        self._next = 1

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, done: int, note: str) -> None:
        if done * _TENTHS < self._next * self._total:
            return
        self._next = done * _TENTHS // self._total + 1
        seconds = time.monotonic() - self._began
        self._screen.say(f"  {done:>5} of {self._total} ({100 * done // self._total:>3} %) after {seconds:4.1f} s, {note}")

"""What people see: steps, a progress bar, results. On a terminal in colour and moving, else plain lines."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_LABEL: Final = 12  # columns for the names of steps
_LONGEST_BAR: Final = 40
_PARTS: Final = 10  # lines of progress where nothing can move


class Bar(Protocol):
    """The progress of the job."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, done: int, note: str) -> None:
        """Show how many tasks are done, and a few words beside it."""


class Screen:
    """Prints to standard output; colours are left out where there is no terminal, and with `NO_COLOR`."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._moves = self._console.is_terminal and not self._console.is_dumb_terminal
        self._folds = self._console.is_terminal  # a file has no width: nothing written to it is folded

    def title(self, text: str) -> None:
        """Print the heading of a part."""
        self._print(Text(f"\n{text}", "bold"))

    def fact(self, label: str, text: str, seconds: float | None = None) -> None:
        """Print one line of a part: a name, what there is to say, and how long it took."""
        took = f" ({seconds:.1f} s)" if seconds is not None else ""
        self._labelled(Text(label, "cyan"), Text(text).append(took, "dim"))

    def alarm(self, label: str, text: str) -> None:
        """Print what is done to the system."""
        self._labelled(Text(label, "bold red"), Text(text))

    def verdict(self, good: bool, text: str) -> None:
        """Print the outcome of one check."""
        self._labelled(Text("right", "bold green") if good else Text("WRONG", "bold red"), Text(text))

    def verbatim(self, lines: Sequence[str]) -> None:
        """Print lines of another program as they are."""
        for line in lines:
            self._print(Text(f"  {line}", "dim"))

    def note(self, text: str) -> None:
        """Print something beside the matter."""
        self._print(Text(text, "dim"))

    def error(self, text: str) -> None:
        """Print why the demo failed."""
        self._print(Text(text, "red"))

    def words(self, counts: Sequence[tuple[str, int]]) -> None:
        """Print words with their counts, the most frequent first."""
        block = "#" if self._console.options.ascii_only else "█"
        for word, count in counts:
            bar = block * max(1, round(_LONGEST_BAR * count / counts[0][1]))
            self._print(Text.assemble(f"  {word:<{_LABEL}}{count:>9,}  ", (bar, "cyan")))

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show for the time of the block what takes a while; yields what to call when that changes."""
        if not self._moves:
            self.note(f"  {text}")
            yield lambda text: self.note(f"  {text}")
            return
        with self._console.status(text, spinner="line") as status:
            yield status.update

    def bar(self, total: int) -> Bar:
        """Return the progress bar of a job of so many tasks; enter it to show it."""
        return _MovingBar(self._console, total) if self._moves else _PlainBar(self, total)

    def _labelled(self, label: Text, text: Text) -> None:
        if self._folds:
            table = Table.grid(padding=(0, 0, 0, 0))
            table.add_column(width=_LABEL)
            table.add_column(overflow="fold")
            table.add_row(label, text)
            self._console.print(Padding.indent(table, 2))
        else:
            label.pad_right(_LABEL - len(label))
            self._print(Text.assemble("  ", label, text))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=not self._folds)


class _MovingBar:
    def __init__(self, console: Console, total: int) -> None:
        columns = (
            TextColumn("  counting   "),
            BarColumn(None, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, expand=True)
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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, done: int, note: str) -> None:
        if done * _PARTS < self._next * self._total:
            return
        self._next = done * _PARTS // self._total + 1
        seconds = time.monotonic() - self._began
        self._screen.fact("counting", f"{done:>6} of {self._total} after {seconds:4.1f} s, {note}")

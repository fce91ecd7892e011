"""How far the run is: a bar on a terminal, plain lines elsewhere (a log file, CI)."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Steps:
    """Counts the steps of a run.

    Args:
        console: where to write.
        total: how many steps there will be.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task("measuring", total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, line: str) -> None:
        """Say what came out of a step, and go on to the next."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        if self._bar is not None:
            self._bar.advance(self._task)

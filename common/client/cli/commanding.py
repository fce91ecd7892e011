"""``warren worker ping``, ``stats``, ``stacks``, ``drain``, ``resume``, ``slots``, ``shutdown`` and ``log-level``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import click
import msgspec

from common.administration import LONGEST_WAIT, CommandAnswer, CommandAnswers
from common.client.cli.reporting import EXIT_TIMEOUT, common_options, connected, to_json, wait_option
from common.client.cli.tables import coloured, printable, short_span

F = TypeVar("F", bound=Callable[..., Any])

CODES: Final = (
    "Exit codes: 0 all have done it, 1 one of them could not, 2 wrong command line, "
    "3 no scheduler answered, or not every worker in time, 6 only operators may."
)
EXIT_FAILED: Final = 1
_WITHIN: Final = 2.0

verbs: dict[str, click.Command] = {}
"""The commands to workers, by name; `warren worker` shows them beside what starts a worker."""


def _verb(name: str, help_text: str, *first: Callable[[Any], Any]) -> Callable[[F], F]:
    """Make a command of it, with the options that all of them have; `first` are arguments before the workers."""

    def add(function: F) -> F:
        within = click.option(
            "--within",
            type=click.FloatRange(0, LONGEST_WAIT, min_open=True),
            default=_WITHIN,
            show_default=True,
            help="Seconds that the workers have to answer.",
        )
        made: Any = within(wait_option(10.0, what="Seconds to wait for the scheduler")(common_options(function)))
        made = click.argument("workers", metavar="[WORKER]...", nargs=-1)(made)
        for argument in first:
            made = argument(made)
        about = f"{help_text}\n\nWORKER is a worker's id, or its beginning; without any it is about all workers."
        verbs[name] = click.command(name, help=about, short_help=help_text, epilog=CODES)(made)
        return function

    return add


@_verb("ping", "Ask workers whether they are there.")
def ping(**given: Any) -> None:
    _order("ping", _line, **given)


@_verb("stats", "Show what workers have counted since they started.")
def stats(**given: Any) -> None:
    _order("stats", _fields, **given)


@_verb("stacks", "Show where every running task is: why does it hang?")
def stacks(**given: Any) -> None:
    _order("stacks", _stacks, **given)


@_verb("drain", "Have workers take nothing more, finish what runs, and stay.")
def drain(**given: Any) -> None:
    _order("drain", _line, **given)


@_verb("resume", "Have drained workers take tasks again.")
def resume(**given: Any) -> None:
    _order("resume", _line, **given)


@_verb(
    "shutdown",
    "Have workers finish what runs, and end.",
    click.option("--yes", "-y", is_flag=True, help="Do not ask whether all workers are meant."),
)
def shutdown(*, yes: bool, **given: Any) -> None:
    if not given["workers"] and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("name the workers, or say --yes if you mean all of them")
        click.confirm("Shut down all workers?", abort=True, err=True)
    _order("shutdown", _line, **given)


@_verb(
    "slots",
    "Have workers run at most so many tasks at a time.",
    click.argument("slots", metavar="N", type=click.IntRange(1, 10_000)),
)
def slots(**given: Any) -> None:
    _order("slots", _line, **given)


@_verb(
    "log-level",
    "Have workers log from this level on.",
    click.argument("level", metavar="LEVEL", type=click.Choice(["debug", "info", "warning", "error"])),
)
def log_level(**given: Any) -> None:
    _order("log-level", _line, **given)


Show = Callable[[Mapping[str, Any]], Iterator[str]]
"""An answer's data as lines; the first goes beside the worker's id."""


def _order(
    verb: str,
    show: Show,
    *,
    workers: tuple[str, ...],
    within: float,
    timeout: float | None,
    as_json: bool,
    namespace: str | None,
    slots: int | None = None,
    level: str | None = None,
) -> None:
    with connected(namespace, as_json=as_json) as client:
        given = client.command(verb, *workers, slots=slots, level=level, within=within, timeout=timeout)
    if as_json:
        _print_json(given)
    else:
        _print(given, show, within)
    if given.missing:
        raise click.exceptions.Exit(EXIT_TIMEOUT)
    if any(answer.error for answer in given.answers):
        raise click.exceptions.Exit(EXIT_FAILED)


def _print_json(given: CommandAnswers) -> None:
    for answer in given.answers:
        click.echo(to_json(answer))
    for worker in given.missing:
        click.echo(to_json({"worker": worker, "error": "no answer"}))


def _print(given: CommandAnswers, show: Show, within: float) -> None:
    columns = max((len(name) for name in [*given.missing, *(answer.worker for answer in given.answers)]), default=0)
    for answer in given.answers:
        first, *more = _answer_lines(answer, show)
        said = coloured(first, "red") if answer.error else first
        click.echo(f"{answer.worker:<{columns}}  {_after(answer.after):>6}  {said}".rstrip())
        for line in more:
            click.echo(f"  {line}".rstrip())
    for worker in given.missing:
        click.echo(f"{worker:<{columns}}  {'':>6}  {coloured(f'no answer within {within:g} s', 'red')}")


def _answer_lines(answer: CommandAnswer, show: Show) -> list[str]:
    if answer.error:
        return [printable(answer.error)]
    data = msgspec.json.decode(answer.data)
    return [printable(line) for line in show(data if isinstance(data, dict) else {"answer": data})] or [""]


def _after(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _line(data: Mapping[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{name} {_value(value)}" for name, value in data.items()) or "done"


def _fields(data: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    size = max(map(len, data), default=0)
    for name, value in data.items():
        label = f"{name.replace('_', ' '):<{size}}"
        if isinstance(value, dict) and value and all(isinstance(each, dict) for each in value.values()):
            for key, each in value.items():
                yield f"{label}  {key}: {_value(each)}"
                label = " " * size
        else:
            yield f"{label}  {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        said = {name.replace("_", " "): _value(each) for name, each in value.items() if each}
        return ", ".join(f"{name} {each}" for name, each in said.items()) or "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _stacks(data: Mapping[str, Any]) -> Iterator[str]:
    tasks = data.get("tasks", [])
    yield f"{len(tasks)} running" + (", cut: it would be too much" if data.get("cut") else "")
    for task in tasks:
        again = f", attempt {task['attempt']}" if task.get("attempt", 1) > 1 else ""
        past = ", given up" if task.get("given_up") else ""
        yield (
            f"{task.get('id')}  {task.get('task')}, {task.get('runtime')}, for {short_span(task.get('age', 0.0))}"
            f"{again}{past}"
        )
        for line in task.get("stack", []):
            yield from (f"    {part}" for part in str(line).splitlines())

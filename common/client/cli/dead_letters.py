"""``warren dead list``, ``show``, ``replay`` and ``purge``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import LiveLine, bar, clock, cut, printable, table, when, width
from common.client.cli.values import which, which_options
from common.client.inquiries import ANSWER_TIMEOUT
from common.client.sync import Client
from common.questions import DeadLetter

F = TypeVar("F", bound=Callable[..., Any])

_CODES = "Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered, 4 no such dead letter."


def _chosen(function: F) -> F:
    """The options that choose among all dead letters."""
    function = click.option("--reason", help="Of this reason: exception, timeout, crashed, undecodable, ...")(function)
    return which_options(states=False)(function)


@click.group(short_help="List, show, replay and purge what failed or was refused.")
def dead() -> None:
    """Look after dead letters: failed tasks, named by ID, and refused messages, named by number."""


@dead.command("list", epilog=_CODES)
@_chosen
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Dead letters at most.")
@click.option("--all", "everything", is_flag=True, help="Without a limit.")
@wait_option(ANSWER_TIMEOUT, what="Seconds to wait for each answer")
@common_options
def list_letters(
    reason: str | None,
    limit: int,
    everything: bool,
    timeout: float | None,
    as_json: bool,
    namespace: str | None,
    **given: Any,
) -> None:
    """List dead letters: those to which all options apply."""
    with connected(namespace, as_json=as_json) as client:
        wanted = None if everything else limit
        letters = list(client.dead.list(reason=reason, limit=wanted, timeout=timeout, **which(given)))
    if as_json:
        for letter in letters:
            click.echo(to_json(letter))
        return
    _print_table(letters)
    if not letters:
        click.echo("no dead letters", err=True)
    elif len(letters) == wanted:
        click.echo(f"the first {wanted:,}; --limit or --all shows more", err=True)


@dead.command("show", epilog=_CODES)
@click.argument("one", metavar="ID|NUMBER")
@wait_option(10.0)
@common_options
def show(one: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Print one dead letter with its payload."""
    with connected(namespace, as_json=as_json) as client:
        letter = client.dead.show(_named(one), timeout=timeout)
        click.echo(to_json(letter) if as_json else "\n".join(map(printable, _described(letter))))


@dead.command("replay", epilog=_CODES)
@click.argument("ones", metavar="[ID|NUMBER]...", nargs=-1)
@_chosen
@click.option("--all", "everything", is_flag=True, help="All of them.")
@wait_option(ANSWER_TIMEOUT, what="Seconds to wait for each answer")
@common_options
def replay(
    ones: tuple[str, ...],
    reason: str | None,
    everything: bool,
    timeout: float | None,
    as_json: bool,
    namespace: str | None,
    **given: Any,
) -> None:
    """Submit failed tasks again: these, or those to which all options apply.

    Each becomes a new task. What has been replayed before is not replayed again, so an interrupted replay is finished
    by the same command.
    """
    words = _words(ones, reason, everything, given)
    with connected(namespace, as_json=as_json) as client:
        total, before = (len(ones), 0) if ones else _count(client, words, timeout, as_json)
        done = _with_bar(client.dead.replay, ones, words, timeout, total, as_json)
    if as_json:
        return
    again = sum(bool(letter.replayed_as) for letter in done)
    if len(done) == 1 and again:
        click.echo(f"{_name(done[0])}  replayed as {done[0].replayed_as}")
    else:
        parts = [f"{max(0, again - before):,} replayed"]
        parts += [f"{before:,} had been before"] if before else []
        parts += [f"{len(done) - again:,} cannot be"] if again < len(done) else []
        click.echo(", ".join(parts))
    _check_all(len(done), len(ones))


@dead.command("purge", epilog=_CODES)
@click.argument("ones", metavar="[ID|NUMBER]...", nargs=-1)
@_chosen
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option(ANSWER_TIMEOUT, what="Seconds to wait for each answer")
@common_options
def purge(
    ones: tuple[str, ...],
    reason: str | None,
    everything: bool,
    yes: bool,
    timeout: float | None,
    as_json: bool,
    namespace: str | None,
    **given: Any,
) -> None:
    """Forget dead letters: these, or those to which all options apply. There is no way back."""
    words = _words(ones, reason, everything, given)
    with connected(namespace, as_json=as_json) as client:
        total = len(ones) or _count(client, words, timeout, as_json)[0]
        if not ones and not yes and sys.stdin.isatty():
            click.confirm(f"Purge {total:,} dead letter{'s' if total != 1 else ''}?", abort=True, err=True)
        done = _with_bar(client.dead.purge, ones, words, timeout, total, as_json)
    if not as_json:
        click.echo(f"{len(done):,} purged")
        _check_all(len(done), len(ones))


def _words(ones: tuple[str, ...], reason: str | None, everything: bool, given: dict[str, Any]) -> dict[str, Any]:
    words = which(given) | ({"reason": reason} if reason else {})
    if bool(ones) + bool(words) + everything != 1:
        raise click.UsageError("say one of these: IDs and numbers, options such as --task and --reason, or --all")
    return words


def _count(client: Client, words: dict[str, Any], timeout: float | None, as_json: bool) -> tuple[int, int]:
    """How many there are, and how many of them have been replayed."""
    line, count, replayed = LiveLine(quiet=as_json), 0, 0
    for letter in client.dead.list(timeout=timeout, **words):
        count += 1
        replayed += bool(letter.replayed_as)
        if count % 1000 == 0:
            line.show(f"{count:,} found")
    line.clear()
    return count, replayed


def _with_bar(
    verb: Callable[..., Sequence[DeadLetter]],
    ones: tuple[str, ...],
    words: dict[str, Any],
    timeout: float | None,
    total: int,
    as_json: bool,
) -> Sequence[DeadLetter]:
    line, seen = LiveLine(quiet=as_json), 0

    def on_page(page: Sequence[DeadLetter]) -> None:
        nonlocal seen
        seen += len(page)
        line.show(bar(seen, max(seen, total)))
        if as_json:
            for letter in page:
                click.echo(to_json(letter))

    done = verb(*map(_named, ones), timeout=timeout, on_page=on_page, **words)
    line.clear()
    return done


def _check_all(done: int, named: int) -> None:
    if done < named:
        click.echo(f"warren: {named - done:,} of these are no dead letters", err=True)
        raise click.exceptions.Exit(4)


def _named(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _name(letter: DeadLetter) -> str:
    return letter.id or str(letter.parked)


def _print_table(letters: Sequence[DeadLetter]) -> None:
    now, columns = time.time(), width()
    rows = [("ID", "WHEN", "REASON", "TASK", "QUEUE")]
    rows += [
        (_name(letter), when(letter.at, now), letter.reason, letter.task, letter.queue or letter.origin)
        for letter in letters
    ]
    heading, *lines = table(rows, columns, shrink=(3, 4))
    if letters:
        click.echo(heading)
    for letter, row in zip(letters, lines, strict=True):
        click.echo(row)
        if letter.detail:
            click.echo(cut(f"  {letter.detail}", columns))
        if letter.replayed_as:
            click.echo(f"  replayed as {letter.replayed_as}")


def _described(letter: DeadLetter) -> list[str]:
    lines = [f"{_name(letter)}  {letter.reason}"]
    lines += [f"  {line}" for line in letter.detail.splitlines()]
    if letter.task:
        lines.append(f"  task {letter.task}, queue {letter.queue}")
    lines += [f"  from {letter.origin}"] if letter.origin else []
    lines += [f"  died {clock(letter.at)}"] if letter.at else []
    lines += [f"  replayed as {letter.replayed_as}"] if letter.replayed_as else []
    lines += [f"  {letter.payload}"] if letter.payload else []
    return lines

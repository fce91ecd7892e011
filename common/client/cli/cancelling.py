"""``warren cancel``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import click

from common.client.cli.reporting import EXIT_UNKNOWN, common_options, connected, to_json, wait_option
from common.client.cli.tables import LiveLine
from common.client.cli.values import which, which_options
from common.client.inquiries import ANSWER_TIMEOUT
from common.client.sync import Client
from common.states import TERMINAL, State

_UNFINISHED: Final = [str(state) for state in State if state not in TERMINAL]
COUNTED: Final = 10_000
"""Tasks that are counted before asking whether they are to be cancelled."""


@click.command(
    short_help="Cancel tasks, by ID or by what they have in common.",
    epilog="Exit codes: 0 none of them runs on, 2 wrong command line, 3 no scheduler answered, 4 some are unknown.",
)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@which_options()
@click.option("--all", "everything", is_flag=True, help="All of your unfinished tasks.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option(ANSWER_TIMEOUT, what="Seconds to wait for each answer")
@common_options
def cancel(
    ids: tuple[str, ...],
    everything: bool,
    yes: bool,
    timeout: float | None,
    as_json: bool,
    namespace: str | None,
    **given: Any,
) -> None:
    """Cancel the tasks with these IDs, or those to which all options apply, for good and wherever they are.

    Prints the state that each of them has now: cancelled, or the outcome that came first.
    """
    words = which(given)
    if bool(ids) + bool(words) + everything != 1:
        raise click.UsageError("say one of these: IDs, options such as --queue and --label, or --all")
    with connected(namespace, as_json=as_json) as client:
        if ids:
            states = client.cancel(ids=ids, timeout=timeout)
            _print_each(states.items(), as_json=as_json)
            if "unknown" in states.values():
                raise click.exceptions.Exit(EXIT_UNKNOWN)
            return
        words.setdefault("state", _UNFINISHED)
        if not yes and sys.stdin.isatty() and not _is_sure(client, words, timeout):
            return
        _cancel_many(client, words, timeout, as_json=as_json)


def _is_sure(client: Client, words: dict[str, Any], timeout: float | None) -> bool:
    count = sum(1 for _ in islice(client.tasks(timeout=timeout, **words), COUNTED))
    if count == 0:
        click.echo("no such tasks", err=True)
        return False
    several = f"more than {count:,} tasks" if count == COUNTED else f"{count:,} task{'s' if count > 1 else ''}"
    return click.confirm(f"Cancel {several}?", err=True)


def _cancel_many(client: Client, words: dict[str, Any], timeout: float | None, *, as_json: bool) -> None:
    counts, line = Counter[str](), LiveLine(quiet=as_json)

    def on_page(page: Sequence[tuple[str, str]]) -> None:
        counts.update(state for _, state in page)
        if as_json:
            _print_each(page, as_json=True)
        line.show(f"{counts['cancelled']:,} cancelled")

    client.cancel(timeout=timeout, on_page=on_page, **words)
    line.clear()
    if not as_json:
        click.echo(f"{counts.pop('cancelled', 0):,} cancelled")
        for state, count in counts.items():
            click.echo(f"{count:,} {state} before that")


def _print_each(states: Any, *, as_json: bool) -> None:
    for task_id, state in states:
        click.echo(to_json({"id": task_id, "state": state}) if as_json else f"{task_id}  {state}")

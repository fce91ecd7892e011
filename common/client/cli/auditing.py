"""``warren changes``."""

from __future__ import annotations

import time
from typing import Final

import click

from common.administration import Change
from common.client.cli.limiting import WAIT
from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import cut, table, when, width

_WIDEST: Final = 10_000


@click.command(
    short_help="List what operators have changed.",
    epilog="Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Changes at most.")
@click.option("--all", "everything", is_flag=True, help="Without a limit.")
@wait_option(WAIT, what="Seconds to wait for each answer")
@common_options
def changes(limit: int, everything: bool, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """List what operators have changed, the newest first; to others only what they have changed themselves."""
    with connected(namespace, as_json=as_json) as client:
        found = list(client.changes(limit=None if everything else limit, timeout=timeout))
    if as_json:
        for change in found:
            click.echo(to_json(change))
        return
    if not found:
        click.echo("nothing was changed", err=True)
        return
    now, columns = time.time(), width()
    heading, *rows = ("WHEN", "USER", "WHAT", "NAME", "DETAIL"), *(_row(change, now) for change in found)
    whole = table([heading, *rows], _WIDEST, shrink=())
    if max(map(len, whole)) <= columns:
        click.echo("\n".join(whole))
        return
    first, *lines = table([row[:4] for row in (heading, *rows)], columns, shrink=(3,))
    click.echo(first)
    for line, row in zip(lines, rows, strict=True):
        click.echo(f"{line}\n{cut(f'  {row[4]}', columns)}")


def _row(change: Change, now: float) -> tuple[str, ...]:
    return when(change.at, now), change.user, change.what, change.name, change.detail

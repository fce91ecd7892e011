"""``warren changes``."""

from __future__ import annotations

import click

from common.client.cli.limiting import WAIT
from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import clock, table, width


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
    rows = [("WHEN", "USER", "WHAT", "NAME", "DETAIL")]
    rows += [(clock(change.at), change.user, change.what, change.name, change.detail) for change in found]
    for line in table(rows, width(), shrink=(4, 3)):
        click.echo(line)

"""``warren queue purge``, ``move`` and ``reprioritise``: what waits in a queue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from common.client.cli.limiting import WAIT, queue
from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import LiveLine
from common.client.cli.values import which, which_options
from common.client.sync import Client

CODES: Final = "Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered: some may have been changed."


@queue.command("purge", epilog=CODES)
@click.argument("name", metavar="QUEUE")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@wait_option(WAIT, what="Seconds to wait for each answer")
@common_options
def purge(name: str, yes: bool, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Cancel all that waits in a queue, for good; what is at workers is finished. Of others' tasks only as operator."""
    with connected(namespace, as_json=as_json) as client:
        if not yes:
            _make_sure(client, name, timeout)
        line, seen = LiveLine(quiet=as_json), 0

        def on_page(page: Sequence[tuple[str, str]]) -> None:
            nonlocal seen
            seen += len(page)
            line.show(f"{seen:,} cancelled")

        cancelled = client.purge(name, timeout=timeout, on_page=on_page)
        line.clear()
    click.echo(to_json({"queue": name, "cancelled": cancelled}) if as_json else f"{cancelled:,} cancelled")


@queue.command("move", epilog=CODES)
@click.argument("name", metavar="QUEUE")
@click.argument("to", metavar="TO")
@which_options(states=False, queue=False)
@wait_option(WAIT, what="Seconds to wait for each answer")
@common_options
def move(name: str, to: str, timeout: float | None, as_json: bool, namespace: str | None, **given: Any) -> None:
    """Move what waits in a queue to another one: all, or what all options apply to."""
    words = which(given) | {"queue": name}
    with connected(namespace, as_json=as_json) as client:
        moved = _with_line(as_json, lambda on_page: client.move(to, timeout=timeout, on_page=on_page, **words))
    answer = {"queue": name, "to": to, "moved": moved}
    click.echo(to_json(answer) if as_json else f"{moved:,} moved to {to}")


@queue.command("reprioritise", epilog=CODES)
@click.argument("name", metavar="QUEUE")
@click.argument("priority", type=click.IntRange(0, 9))
@which_options(states=False, queue=False)
@wait_option(WAIT, what="Seconds to wait for each answer")
@common_options
def reprioritise(
    name: str, priority: int, timeout: float | None, as_json: bool, namespace: str | None, **given: Any
) -> None:
    """Give what waits in a queue another priority, 0 (last) to 9 (first): all, or what all options apply to."""
    words = which(given) | {"queue": name}
    with connected(namespace, as_json=as_json) as client:
        changed = _with_line(
            as_json, lambda on_page: client.reprioritise(priority, timeout=timeout, on_page=on_page, **words)
        )
    answer = {"queue": name, "priority": priority, "changed": changed}
    click.echo(to_json(answer) if as_json else f"{changed:,} have priority {priority}")


def _make_sure(client: Client, name: str, timeout: float | None) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: say --yes if you mean it")
    found = client.queues(name, timeout=timeout)
    count = sum(report.queued + report.scheduled for report in found)
    click.confirm(f"Cancel {count:,} task{'' if count == 1 else 's'} of the queue {name}?", abort=True, err=True)


def _with_line(as_json: bool, verb: Callable[[Callable[[Sequence[str]], None]], int]) -> int:
    line, seen = LiveLine(quiet=as_json), 0

    def on_page(page: Sequence[str]) -> None:
        nonlocal seen
        seen += len(page)
        line.show(f"{seen:,} done")

    done = verb(on_page)
    line.clear()
    return done

"""``warren submit``."""

from __future__ import annotations

from typing import Any

import click

from common.client.cli.outcomes import print_result
from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.values import By, Moment, Span, json_object, json_or_text, labels


@click.command(
    epilog="A SPAN is seconds, or 5m, 1h30m, 7d. A TIME is like 2026-12-24T18:00, in this machine's zone unless it "
    "names one. Exit codes: 0 done, 1 the task failed, 2 wrong command line or task, 3 the wait ended, "
    "5 the submission was not confirmed."
)
@click.argument("name")
@click.argument("args", nargs=-1)
@click.option("--kwargs", metavar="JSON", help="Keyword arguments, as a JSON object.")
@click.option("--queue", help="Where it goes; by default 'default'.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 (last) to 9 (first); by default 4.")
@click.option("--id", "task_id", help="Its id, to submit the same again after an unknown outcome.")
@click.option("--delay", type=Span(), help="Run it so much later.")
@click.option("--run-at", type=Moment(), help="Run it then.")
@click.option("--expires", type=By(), help="Do not start it after this span, or this time.")
@click.option("--timeout", type=Span(), help="Raise TaskTimeout in it after so long.")
@click.option("--hard-timeout", type=Span(), help="End it after so long.")
@click.option("--retries", type=click.IntRange(min=0), help="Run it again so often when it fails.")
@click.option("--key", help="Whose task it is, for fairness.")
@click.option("--requires", multiple=True, metavar="LABEL", help="A label that its worker has to have; repeatable.")
@click.option("--label", "label", multiple=True, metavar="NAME=VALUE", help="To find it again; repeatable.")
@click.option("--idempotency-key", help="The first task with this key is meant, if there was one within a day.")
@click.option("--unique", help="An unfinished task with this name is meant, if there is one.")
@click.option("--result-ttl", type=Span(), help="Keep its result so long.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@wait_option(None, "--wait-timeout", "Seconds to wait with --wait")
@common_options
def submit(
    name: str,
    args: tuple[str, ...],
    kwargs: str | None,
    queue: str | None,
    priority: int | None,
    task_id: str | None,
    expires: tuple[str, float] | None,
    requires: tuple[str, ...],
    label: tuple[str, ...],
    wait: bool,
    wait_timeout: float | None,
    as_json: bool,
    namespace: str | None,
    **words: Any,
) -> None:
    """Submit the task NAME with ARGS, and print its id.

    An argument is taken as JSON where it is JSON, else as text: 2 is a number, '"2"' and two are text. Write -- before
    arguments that begin with a dash.
    """
    keywords = json_object(kwargs)
    words |= dict([expires] if expires else []) | {"labels": labels(label), "requires": requires or None}
    with connected(namespace, as_json=as_json) as client:
        options = client.options(queue=queue, priority=priority, task_id=task_id, **words)
        handle = options.submit(name, *map(json_or_text, args), **keywords)
        if wait:
            print_result(handle, wait_timeout, as_json)
        else:
            click.echo(to_json({"id": handle.id}) if as_json else handle.id)

"""``warren queue set``, ``pause``, ``resume`` and ``warren limit``: what queues, task functions and keys may have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from common.client.cli.quota_values import described, quota_options, said
from common.client.cli.reporting import common_options, connected, to_json, wait_option
from common.client.cli.tables import table, width
from common.quotas import Quota, Scope

F = TypeVar("F", bound=Callable[..., Any])

WAIT: Final = 10.0
CODES: Final = "Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered, 6 only operators may."


@click.group(short_help="Show and change one queue.")
def queue() -> None:
    """Show one queue, and change what it may have and what waits in it."""


@queue.command("set", epilog=CODES)
@click.argument("name", metavar="QUEUE")
@quota_options
@wait_option(WAIT)
@common_options
def set_queue(name: str, timeout: float | None, as_json: bool, namespace: str | None, **given: Any) -> None:
    """Change what a queue may have, at once and for the whole system. What is not said stays as it is."""
    _set(Scope.QUEUE, name, said(given), timeout, as_json, namespace)


@queue.command("pause", epilog=CODES)
@click.argument("name", metavar="QUEUE")
@wait_option(WAIT)
@common_options
def pause(name: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Dispatch nothing more of a queue; what is at workers is finished."""
    _set(Scope.QUEUE, name, {"paused": True}, timeout, as_json, namespace)


@queue.command("resume", epilog=CODES)
@click.argument("name", metavar="QUEUE")
@wait_option(WAIT)
@common_options
def resume(name: str, timeout: float | None, as_json: bool, namespace: str | None) -> None:
    """Dispatch a paused queue again."""
    _set(Scope.QUEUE, name, {"paused": False}, timeout, as_json, namespace)


@click.group(short_help="Limit queues, task functions and fairness keys.")
def limit() -> None:
    """Weights, rates and concurrency limits of queues, task functions and fairness keys. All that fit a task count."""


def _whose(function: F) -> F:
    for scope in reversed(Scope):
        what = {"task": "task function", "key": "fairness key"}.get(scope, scope)
        function = click.option(f"--{scope}", scope.value, metavar="NAME", help=f"Of this {what}.")(function)
    return function


@limit.command("set", epilog=CODES)
@_whose
@quota_options
@click.option("--pause/--resume", "paused", default=None, help="Dispatch nothing of it, or dispatch it again.")
@wait_option(WAIT)
@common_options
def set_limit(timeout: float | None, as_json: bool, namespace: str | None, **given: Any) -> None:
    """Change what a queue, a task function or a key may have. What is not said stays as it is."""
    scope, name = _chosen(given, required=True)
    _set(Scope(scope), name, said(given), timeout, as_json, namespace)


@limit.command("list", epilog="Exit codes: 0 done, 2 wrong command line, 3 no scheduler answered.")
@_whose
@wait_option(WAIT)
@common_options
def list_limits(timeout: float | None, as_json: bool, namespace: str | None, **given: Any) -> None:
    """List the limits that were set: all, or those of one. Those of keys are shown to operators only."""
    scope, name = _chosen(given, required=False)
    with connected(namespace, as_json=as_json) as client:
        quotas = [quota for quota in client.quotas(scope or None, timeout=timeout) if name in ("", quota.name)]
    if as_json:
        for quota in quotas:
            click.echo(to_json(quota))
    elif quotas:
        _print_table(quotas)
    else:
        click.echo("no limits were set", err=True)


def _set(
    scope: Scope, name: str, words: dict[str, Any], timeout: float | None, as_json: bool, namespace: str | None
) -> None:
    with connected(namespace, as_json=as_json) as client:
        quota = client.set_quota(scope, name, timeout=timeout, **words)
    click.echo(to_json(quota) if as_json else f"{scope} {name}: {described(quota)}")
    if not quota.known:
        click.echo(
            f"no task and no worker names the queue {name!r} so far; the setting is kept for its first task", err=True
        )


def _chosen(given: dict[str, Any], *, required: bool) -> tuple[str, str]:
    chosen = [(scope.value, given.pop(scope.value)) for scope in Scope if given.get(scope.value) is not None]
    if len(chosen) > 1 or (required and not chosen):
        raise click.UsageError("say whose limits: one of --queue NAME, --task NAME and --key NAME")
    return chosen[0] if chosen else ("", "")


def _print_table(quotas: list[Quota]) -> None:
    rows = [("OF", "NAME", "WEIGHT", "RATE", "CONCURRENCY", "AGEING", "")]
    rows += [
        (
            str(quota.scope),
            quota.name,
            f"{quota.weight:g}",
            "" if quota.rate is None else str(quota.rate),
            "" if quota.concurrency is None else f"{quota.concurrency:,}",
            "" if quota.ageing is None else f"{quota.ageing:g}s",
            "paused" if quota.paused else "",
        )
        for quota in quotas
    ]
    for line in table(rows, width(), shrink=(1,), right=(2, 3, 4, 5)):
        click.echo(line)

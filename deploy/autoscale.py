"""Start and stop workers of the Compose project, as many as the scheduler recommends.

python -m deploy.autoscale --min 1 --max 6
python -m deploy.autoscale --dry-run

Every few seconds it asks the project's Prometheus for `warren_recommended_workers`, adds up the queues that the workers
serve, and tells Compose how many containers there are to be. Compose stops the newest ones with SIGTERM, so they drain.
It keeps nothing: start it again at any time. On Kubernetes KEDA does the same (deploy/kubernetes/keda).
"""

from __future__ import annotations

import json
import math
import os
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

import click

from deploy.compose import HERE, Project
from deploy.credentials import State, served_queues
from deploy.replicas import Bounds, Replicas

_ANSWER_TIMEOUT: Final = 5.0
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy: the address is one of this machine's."""
_SECONDS: Final = click.FloatRange(0.1, 86_400)


@click.command()
@click.option("--project", default="warren", show_default=True, help="Name of the Compose project.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=HERE,
    help="Directory of .env and secrets/; by default deploy/.",
)
@click.option("--min", "least", default=1, show_default=True, help="Workers that always stay.")
@click.option("--max", "most", default=8, show_default=True, help="Workers that this machine has room for.")
@click.option(
    "--cooldown",
    type=_SECONDS,
    default=60.0,
    show_default=True,
    help="Seconds of a lower number before workers are stopped.",
)
@click.option("--interval", type=_SECONDS, default=5.0, show_default=True, help="Seconds between two looks.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def main(project: str, state: Path, least: int, most: int, cooldown: float, interval: float, dry_run: bool) -> None:
    """Keep as many workers as the scheduler recommends."""
    try:
        replicas = Replicas(Bounds(least, most, cooldown))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    compose = Project(project, State(state.resolve()))
    queues = served_queues(compose.state, os.environ)
    while True:
        look(compose, replicas, queues, dry_run=dry_run)
        time.sleep(interval)


def look(compose: Project, replicas: Replicas, queues: list[str], *, dry_run: bool) -> None:
    """Look once, and scale if need be.

    Args:
        compose: whose workers.
        replicas: decides.
        queues: that the workers serve.
        dry_run: only say it.
    """
    found = compose.ask("ps", "--quiet", "worker")
    if found is None:
        _say("Compose does not answer")
        return
    running = len(found.split())
    address = compose.address("prometheus", 9090)
    recommended = recommendation(address, queues) if address else None
    target = replicas.decide(time.monotonic(), running, recommended)
    if target == running:
        return
    _say(f"recommended {'unknown' if recommended is None else recommended}, running {running}: scaling to {target}")
    if dry_run:
        return
    try:
        compose.run("up", "--detach", "--no-deps", "--no-build", "--no-recreate", f"--scale=worker={target}", "worker")
    except click.ClickException as error:
        _say(f"{error.message}; trying again")


def recommendation(address: str, queues: list[str]) -> int | None:
    """Ask Prometheus how many workers the queues should have together.

    Args:
        address: its host and port.
        queues: their names.

    Returns:
        None when it does not know: it does not answer, or has not heard of the scheduler lately.
    """
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query(queues)})}"
    try:
        with _DIRECT.open(url, timeout=_ANSWER_TIMEOUT) as answer:
            return workers_in(json.load(answer))
    except (OSError, ValueError):
        return None


def query(queues: list[str]) -> str:
    """The question in PromQL, for queues whose names need no escaping but that of dots."""
    names = "|".join(name.replace(".", "[.]") for name in queues)
    # `max`: for a moment after its restart two schedulers are known.
    return f'sum(max by (queue) (warren_recommended_workers{{queue=~"{names}"}}))'


def workers_in(answer: Any) -> int | None:
    """The number in an answer of Prometheus; None when there is none."""
    try:
        series = answer["data"]["result"]
        number = float(series[0]["value"][1]) if series else math.nan
    except (TypeError, KeyError, IndexError, ValueError):
        return None
    return math.ceil(number) if math.isfinite(number) else None


def _say(what: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {what}")


if __name__ == "__main__":
    main()

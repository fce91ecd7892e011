"""Make the passwords, the broker's definitions and the URLs that the manifests hand to the pods.

::

    python -m deploy.kubernetes
    kubectl apply -k deploy/kubernetes/fixed

Passwords are made once and kept in `deploy/kubernetes/.env` (0600); the files in `deploy/kubernetes/secrets` (0700)
follow from it. Git ignores both. All else that the pods are given is in the manifests and in files that Docker Compose
uses too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from deploy.credentials import State, prepare, write_client_url

HERE: Final = Path(__file__).parent


@click.command()
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=HERE,
    help="Directory of .env and secrets/; by default deploy/kubernetes.",
)
@click.option("--namespace", default="warren", show_default=True, help="Where the broker will be, for clients' URL.")
@click.option("--queues", default="", help="Work queues to declare, with commas; by default those of the examples.")
def main(state: Path, namespace: str, queues: str) -> None:
    """Make the secrets of deploy/kubernetes."""
    known = State(state, command="python -m deploy.kubernetes", settings="")
    changed = prepare(known, {"WARREN_QUEUES": queues})
    write_client_url(known, f"rabbitmq.{namespace}:5672")
    click.echo(f"passwords: {known.env_file}")
    click.echo(f"files:     {known.secrets}")
    if changed:
        click.echo("some are different now: `kubectl apply -k` restarts the pods that are given them")


if __name__ == "__main__":
    main()

"""`make up` and `make down`: Warren, its broker and its monitoring in containers, on this machine.

python -m deploy.compose up --scale worker=3
python -m deploy.compose logs --follow worker
python -m deploy.compose down
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from deploy.credentials import State, prepare, write_client_url
from deploy.local.container import docker_runs

HERE: Final = Path(__file__).parent
_COMPOSE_FILE: Final = HERE / "compose.yaml"
_NEEDS_DOCKER: Final = "this needs a running Docker engine with Compose v2 (`docker compose version`)"


@dataclass(frozen=True)
class Project:
    """One Compose project of `compose.yaml`.

    Args:
        name: Compose's project name; containers, networks and volumes are named after it.
        state: the passwords of this project.
    """

    name: str
    state: State

    def run(self, *arguments: str) -> None:
        """Run `docker compose` and let it print.

        Raises:
            click.ClickException: it failed.
        """
        done = subprocess.run([*self._command(), *arguments], env=self._environment())  # noqa: S603
        if done.returncode != 0:
            raise click.ClickException(f"docker compose {' '.join(arguments)} failed with exit code {done.returncode}")

    def ask(self, *arguments: str) -> str | None:
        """Run `docker compose` and return what it prints; None when it failed."""
        done = subprocess.run(  # noqa: S603
            [*self._command(), *arguments], env=self._environment(), capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def address(self, service: str, port: int) -> str | None:
        """Where this machine reaches a published port, such as `127.0.0.1:5672`; None when the service does not run."""
        return self.ask("port", service, str(port)) or None

    def _command(self) -> list[str]:
        command = ["docker", "compose", "--file", str(_COMPOSE_FILE), "--project-name", self.name]
        if self.state.env_file.exists():
            command += ["--env-file", str(self.state.env_file)]
        return command

    def _environment(self) -> dict[str, str]:
        return os.environ | {"STACK_SECRETS": str(self.state.secrets), "STACK_REVISION": _revision()}


@click.group()
@click.option("--project", default="warren", show_default=True, help="Name of the Compose project.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=HERE,
    help="Directory of .env and secrets/; by default deploy/.",
)
@click.pass_context
def main(context: click.Context, project: str, state: Path) -> None:
    """Run Warren with Docker Compose."""
    if shutil.which("docker") is None:
        raise click.ClickException(_NEEDS_DOCKER)
    context.obj = Project(project, State(state.resolve()))


@main.command()
@click.option("--scale", multiple=True, metavar="SERVICE=N", help="Containers of one service, such as worker=3.")
@click.option("--build/--no-build", default=True, show_default=True, help="Build the image first.")
@click.option("--grafana/--no-grafana", default=True, show_default=True, help="Start the dashboard.")
@click.option("--timeout", default=300, show_default=True, help="Seconds for all services to become healthy.")
@click.argument("services", nargs=-1)
@click.pass_obj
def up(
    project: Project, scale: Sequence[str], build: bool, grafana: bool, timeout: int, services: tuple[str, ...]
) -> None:
    """Make the passwords once, build, start, and wait until every service is healthy."""
    if not docker_runs() or project.ask("version") is None:
        raise click.ClickException(_NEEDS_DOCKER)
    changed = prepare(project.state, os.environ)
    options = ["--detach", "--wait", "--wait-timeout", str(timeout)]
    options += [f"--scale={service}" for service in scale]
    options += ["--build"] if build else []
    # The broker reads its definitions, and the services their URLs, only when they start.
    options += ["--force-recreate"] if changed else []
    profile = ["--profile", "grafana"] if grafana else []
    try:
        project.run(*profile, "up", *options, *services)
    except click.ClickException:
        click.echo(project.ask("ps", "--all") or "", err=True)
        click.echo(project.ask("logs", "--tail=20") or "", err=True)
        raise
    click.echo(summary(project))


@main.command()
@click.option("--volumes", is_flag=True, help="Also delete the data: queues, tasks and metrics.")
@click.pass_obj
def down(project: Project, volumes: bool) -> None:
    """Drain and stop everything; data stays."""
    project.run("--profile", "*", "down", "--remove-orphans", *(["--volumes"] if volumes else []))


@main.command()
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@click.argument("services", nargs=-1)
@click.pass_obj
def logs(project: Project, follow: bool, services: tuple[str, ...]) -> None:
    """Show what the services log."""
    project.run("logs", *(["--follow"] if follow else []), *services)


@main.command()
@click.pass_obj
def status(project: Project) -> None:
    """Show the containers, and what is where."""
    project.run("--profile", "*", "ps", "--all")
    click.echo(summary(project))


def summary(project: Project) -> str:
    """What runs, where it is, and how to use it. Holds no password."""
    lines = []
    broker = project.address("rabbitmq", 5672)
    if broker is not None:
        file = write_client_url(project.state, broker)
        lines += [
            "",
            "Submit a task (the file holds the URL with the client's password):",
            f"  export WARREN_AMQP_URL_FILE={file}",
            "  warren submit add 2 3 --wait",
            "",
            f"Broker      amqp://client:***@{broker}/warren",
        ]
    pages = (
        ("Management", "rabbitmq", 15672, "login monitoring, STACK_MONITORING_PASSWORD in"),
        ("Prometheus", "prometheus", 9090, ""),
        ("Grafana", "grafana", 3000, "login admin, STACK_GRAFANA_PASSWORD in"),
    )
    for title, service, port, login in pages:
        address = project.address(service, port)
        if address is not None:
            note = f"  ({login} {project.state.env_file})" if login else ""
            lines.append(f"{title:<11} http://{address}{note}")
    return "\n".join(lines) or "nothing runs"


def _revision() -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    done = subprocess.run(  # noqa: S603
        [git, "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()

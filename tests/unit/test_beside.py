"""A command with reserved first words beside its own arguments."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result

from common.administration import OPERATED
from common.beside import Beside
from common.client.cli import verbs
from worker_service.cli import worker


@click.command("serve", short_help="Serve.")
@click.argument("modules", nargs=-1)
@click.option("--module", "named", multiple=True)
@click.option("--slots", type=int)
def serve(modules: tuple[str, ...], named: tuple[str, ...], slots: int | None) -> None:
    """Serve MODULES."""
    click.echo(f"serving {' '.join([*modules, *named])} {slots}")


@click.command("ping")
@click.argument("names", nargs=-1)
def ping(names: tuple[str, ...]) -> None:
    """Ping NAMES."""
    click.echo(f"pinging {' '.join(names)}")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(Beside(serve, ["ping"], lambda: {"ping": ping}), arguments, prog_name="warren serve")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks", "--slots", "3"], "serving tasks 3"),
        (["--slots", "3", "tasks", "ping"], "serving tasks ping 3"),
        ([], "serving  None"),
        (["--module", "ping"], "serving ping None"),
        (["serve"], "serving serve None"),
        (["ping"], "pinging "),
        (["ping", "serve"], "pinging serve"),
    ],
)
def test_only_a_first_word_that_is_reserved_is_another_command(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.output) == (0, f"{said}\n")


def test_the_help_shows_both() -> None:
    shown = run("--help").output
    assert "Usage: warren serve [OPTIONS] [MODULES]...\n" in shown
    assert "--slots" in shown
    assert "Commands:\n  ping  Ping NAMES." in shown
    assert "pinging" not in run("ping", "--help").output


def test_a_wrong_option_is_explained() -> None:
    done = run("tasks", "--slot", "x")
    assert done.exit_code == 2
    assert "Usage: warren serve [OPTIONS] [MODULES]..." in done.output
    assert "No such option" in done.output


def test_every_verb_to_workers_is_a_reserved_word_of_the_worker_command() -> None:
    assert isinstance(worker, Beside)
    assert worker.list_commands(click.Context(worker)) == [*OPERATED]
    assert {*verbs} == {*OPERATED}

"""The command ``warren``.

Its subcommands come from the entry points of the group ``warren.commands``, so this module knows no service, and a
command is imported only when it is used. One whose requirements are not installed is listed as unavailable.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version

import click

from common.errors import SettingsError, WarrenError
from common.lifecycle import EXIT_FAILED, EXIT_SETTINGS

GROUP = "warren.commands"


class Commands(click.Group):
    """A group whose commands are entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, importing none."""
        return sorted({*super().list_commands(ctx), *(point.name for point in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; a stand-in that explains itself when it cannot be imported."""
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        for point in entry_points(group=GROUP, name=cmd_name):
            return _load(point)
        return None


def _load(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    except (ImportError, AttributeError) as error:
        return _unavailable(point.name, f"{type(error).__name__}: {error}")
    if not isinstance(command, click.Command):
        return _unavailable(point.name, f"{point.value} is not a command")
    return command


def _unavailable(name: str, reason: str) -> click.Command:
    def explain() -> None:
        raise click.ClickException(f"the command {name!r} is unavailable ({reason}); is its extra installed?")

    return click.Command(
        name,
        callback=explain,
        short_help=f"(unavailable: {reason})",
        params=[click.Argument(("arguments",), nargs=-1, type=click.UNPROCESSED, expose_value=False)],
        context_settings={"ignore_unknown_options": True},
    )


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"warren {version('warren')} (Python {sys.version.split()[0]})")
        context.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
def warren() -> None:
    """A distributed task scheduler on RabbitMQ."""


def main() -> None:
    """Run the command. Exit code 2 for a wrong command line or wrong settings, 1 for any other error of ours."""
    try:
        warren(prog_name="warren")
    except WarrenError as error:
        click.echo(f"warren: {error}", err=True)
        sys.exit(EXIT_SETTINGS if isinstance(error, SettingsError) else EXIT_FAILED)

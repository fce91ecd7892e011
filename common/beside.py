"""A command that takes words of its own, and has commands beside them: ``warren worker``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import click


class _Same(click.Context):
    """The context of the command itself, which is called as the group is."""

    @property
    def command_path(self) -> str:
        """How it is called, for messages about its use."""
        return super().command_path.rstrip()


class Beside(click.Group):
    """A command and reserved words: a first word that is reserved names another command, anything else is its own.

    Args:
        own: the command.
        reserved: the reserved words.
        load: makes the commands of the reserved words, by word, when one of them is used or listed.
    """

    def __init__(
        self, own: click.Command, reserved: Sequence[str], load: Callable[[], Mapping[str, click.Command]]
    ) -> None:
        super().__init__(own.name, help=own.help, short_help=own.short_help)
        own.context_class = _Same
        self._own = own
        self._reserved = tuple(reserved)
        self._load = load

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The reserved words."""
        return list(self._reserved)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a reserved word, or the command itself by its own name."""
        if cmd_name in self._reserved:
            return self._load()[cmd_name]
        return self._own if cmd_name == self._own.name else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give everything to the command itself, unless the first word is reserved."""
        if args and args[0] in self._reserved:
            return super().parse_args(ctx, args)
        if args and args[0] in ctx.help_option_names:
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, [self._own.name or "", *args])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As usual; the command itself is named by how it was called."""
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if command is self._own else name), command, rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Those of the command itself: the reserved words are listed below."""
        return self._own.collect_usage_pieces(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of the command itself, then the reserved words."""
        click.Command.format_options(self._own, ctx, formatter)
        self.format_commands(ctx, formatter)

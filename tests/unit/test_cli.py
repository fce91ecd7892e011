"""The command finds its subcommands by entry point, and explains those that cannot be imported."""

import sys
from importlib.metadata import EntryPoint, EntryPoints

import click
import pytest
from click.testing import CliRunner

import common.cli
from common.cli import GROUP, main, warren
from common.errors import ConnectionLost, SettingsError


@click.command()
def greet() -> None:
    """Say hello."""
    click.echo("hello")


@click.command()
def misconfigured() -> None:
    raise SettingsError(["heartbeat '1': expected `int` >= 5"])


@click.command()
def disconnected() -> None:
    raise ConnectionLost("the broker went away")


@pytest.fixture(autouse=True)
def _commands(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(
        [
            *(EntryPoint(name, f"{__name__}:{name}", GROUP) for name in ("greet", "misconfigured", "disconnected")),
            EntryPoint("absent", "no_such_module:command", GROUP),
            EntryPoint("odd", f"{__name__}:GROUP", GROUP),
        ]
    )
    monkeypatch.setattr(common.cli, "entry_points", points.select)


def test_commands_are_listed_and_run() -> None:
    listed = CliRunner().invoke(warren, ["--help"])
    assert listed.exit_code == 0
    assert "greet" in listed.output
    assert "Say hello." in listed.output
    assert "(unavailable: ModuleNotFoundError" in listed.output
    assert CliRunner().invoke(warren, ["greet"]).output == "hello\n"


@pytest.mark.parametrize(("name", "reason"), [("absent", "no_such_module"), ("odd", "is not a command")])
def test_one_that_cannot_be_imported_says_why(name: str, reason: str) -> None:
    result = CliRunner().invoke(warren, [name, "argument", "--option", "x"])
    assert result.exit_code == 1
    assert reason in result.output


def test_an_unknown_one_is_a_wrong_command_line() -> None:
    assert CliRunner().invoke(warren, ["greed"]).exit_code == 2


def test_the_version_is_shown() -> None:
    result = CliRunner().invoke(warren, ["--version"])
    assert (result.exit_code, result.output[:7]) == (0, "warren ")


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("misconfigured", 2, "warren: wrong settings:\n  - heartbeat '1': expected `int` >= 5\n"),
        ("disconnected", 1, "warren: the broker went away\n"),
    ],
)
def test_our_errors_are_one_message_without_a_traceback(
    name: str, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["warren", name])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert capsys.readouterr().err == text

"""What people write on the command line, and how what they read is laid out."""

from time import time

import click
import pytest

from common.client.cli.tables import bar, cut, printable, short_span, table, when
from common.client.cli.values import Past, labels, moment, span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600), ("0.5s", 0.5),
     ("", None), ("5x", None), ("m", None), ("-5", None), ("5 m", None), ("1e3", None), ("inf", None), ("5m!", None)],
)  # fmt: skip
def test_a_span_is_seconds_or_numbers_with_units(text: str, seconds: float | None) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize(
    ("text", "at"),
    [("2030-01-01T00:00:00Z", 1893456000), ("2030-01-01 01:00+01:00", 1893456000), ("@1893456000.5", 1893456000.5),
     ("tomorrow", None), ("@x", None), ("", None)],
)  # fmt: skip
def test_a_moment_is_iso_8601_or_seconds_since_the_epoch(text: str, at: float | None) -> None:
    assert moment(text) == at


def test_a_past_moment_may_be_said_as_how_long_ago() -> None:
    assert Past().convert("1h", None, None) == pytest.approx(time() - 3600, abs=60)
    assert Past().convert("@5", None, None) == 5.0
    with pytest.raises(click.BadParameter, match="no point in time"):
        Past().convert("noon", None, None)


def test_labels_are_names_and_values() -> None:
    assert labels(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert labels([]) is None


def test_a_table_fits_and_cuts_the_widest_that_may_be_cut() -> None:
    rows = [("ID", "TASK", "QUEUE"), ("1234567890", "a-very-long-name-of-a-task", "mail")]
    assert table(rows, 30, shrink=(1, 2)) == [
        "ID          TASK         QUEUE",
        "1234567890  a-very-lon…  mail",
    ]
    assert table(rows, 1000, shrink=(1, 2))[1] == "1234567890  a-very-long-name-of-a-task  mail"


def test_what_a_task_says_steers_no_terminal() -> None:
    assert printable("a\x1b[2Jb\nc") == "a [2Jb c"
    assert cut("one\ntwo three", 8) == "one two…"


def test_times_read_well() -> None:
    assert [short_span(seconds) for seconds in (0, 59.9, 60, 125, 3599, 7199, 36_000, 90_000, 700_000)] == [
        "0s", "59s", "1m", "2m5s", "59m", "1h59m", "10h", "1d1h", "1w1d",
    ]  # fmt: skip
    assert (when(100, 160), when(160, 100), when(0, 5)) == ("1m ago", "in 1m", "")


def test_a_bar_shows_what_is_known() -> None:
    assert bar(45, 100).endswith("  45 %  45 of 100")
    assert bar(7.5, 0) == "7.5 done"
    assert " 100 %" in bar(12, 10)
    assert "   0 %" in bar(-1, 10)

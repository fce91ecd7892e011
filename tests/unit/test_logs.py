"""All lines look the same, cannot be forged, and are readable by people and by programs."""

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from common.logs import Format, configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def log(style: Format, *args: Any, stream: io.StringIO | None = None, least: str = "info", **fields: Any) -> str:
    stream = stream if stream is not None else io.StringIO()
    configure(least, style, "worker", stream)
    logging.getLogger("common.example").info(*args, extra=fields)
    return stream.getvalue()


def test_json_is_one_object_a_line_with_the_fields() -> None:
    line = log("json", "task ended", task_id="1", attempt=2, slow=True, queues=["a"], note=None)
    content = json.loads(line)
    assert line.count("\n") == 1
    assert content.pop("timestamp").endswith("Z")
    assert content == {
        "level": "info",
        "event": "task ended",
        "logger": "common.example",
        "service": "worker",
        "task_id": "1",
        "attempt": 2,
        "slow": True,
        "queues": ["a"],
        "note": None,
    }


def test_console_is_readable_text() -> None:
    line = log("console", "task ended", task_id="1", attempt=2)
    assert "[info     ] task ended" in line
    assert "attempt=2" in line
    assert "task_id=1" in line
    assert "\x1b" not in line


def test_lines_of_libraries_look_like_ours_and_their_chatter_is_left_out() -> None:
    stream = io.StringIO()
    configure("info", "json", "worker", stream)
    logging.getLogger("aio_pika.robust").info("chatter")
    logging.getLogger("alembic.runtime").warning("lost %s:%d", "host", 5672)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "lost host:5672"
    configure("debug", "json", "worker", stream)
    logging.getLogger("aio_pika.robust").info("chatter")
    assert "chatter" in stream.getvalue()


def test_the_level_is_the_least_that_is_written() -> None:
    assert log("json", "hello", least="warning") == ""


@pytest.mark.parametrize("style", ["console", "json"])
@pytest.mark.parametrize(
    "value", ["a\nforged", "a\r\nforged", "a\x1b[31mforged", "a\u2028forged", "a\x85forged", "a\ud800"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_no_value_can_forge_a_line_or_reach_the_terminal(style: Format, value: str, nested: bool) -> None:
    line = log(style, "%s", value, task=[{"x": value}] if nested else value)
    assert len(line.splitlines()) == 1
    assert line.rstrip("\n").isprintable()


@pytest.mark.parametrize("style", ["console", "json"])
def test_values_that_are_no_json_are_logged_all_the_same(style: Format) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    line = log(style, "hello", cycle=cycle, odd={(1, 2): object()}, error=ValueError("no"), data=b"\xff")
    assert "hello" in line
    assert "ValueError" in line


def test_a_field_called_event_or_level_does_not_replace_ours() -> None:
    content = json.loads(log("json", "hello", event="forged", level="critical", timestamp="never", logger="x"))
    assert (content["event"], content["level"], content["logger"]) == ("hello", "info", "common.example")
    assert content["timestamp"] != "never"


def test_a_long_value_is_cut() -> None:
    content = json.loads(log("json", "hello", body="x" * 10_000))
    assert content["body"].endswith("... (10000 characters)")
    assert len(content["body"]) < 3000


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_is_kept_and_its_text_cannot_forge_a_line(style: Format) -> None:
    stream = io.StringIO()
    configure("info", style, "worker", stream)
    try:
        raise ValueError("first\n2026-01-01T00:00:00Z [info     ] forged \x1b[31m")
    except ValueError:
        logging.getLogger("common.example").exception("failed", extra={"task_id": "1"})
    text = stream.getvalue()
    assert "ValueError: first" in text
    assert "\x1b" not in text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())
    if style == "json":
        assert "Traceback" in json.loads(text)["exception"]


def test_auto_is_console_on_a_terminal_with_colours_unless_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in log("auto", "hello", stream=Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    line = log("auto", "hello", stream=Terminal())
    assert "\x1b[" not in line
    assert "[info     ] hello" in line
    assert json.loads(log("auto", "hello"))["event"] == "hello"


def test_warnings_are_logged() -> None:
    stream = io.StringIO()
    configure("info", "json", "worker", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in json.loads(stream.getvalue())["event"]


def test_configuring_again_replaces_the_handler() -> None:
    first = io.StringIO()
    configure("info", "json", "worker", first)
    assert json.loads(log("json", "hello"))["event"] == "hello"
    assert first.getvalue() == ""


@pytest.mark.parametrize(
    "module",
    ["common", "common.settings", "common.telemetry", "common.failpoints", "common.lifecycle", "common.logs"],
)
def test_what_clients_import_stays_light(module: str) -> None:
    code = (
        f"import sys, {module}; print({{'structlog', 'prometheus_client', 'click', 'sqlalchemy'}} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout == "set()\n"

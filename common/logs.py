"""One log for everything in the process: ours, aio-pika's, SQLAlchemy's.

Our modules log with the standard library, a constant message and fields::

    _log.info("bundle published", extra={"queue": queue, "tasks": len(tasks)})

`configure` renders those, and the lines of libraries, the same way: coloured text on a terminal, one JSON object a line
otherwise. Values come from other programs, so control characters in them are escaped: a task name with a line break
in it cannot forge a second line, nor can an escape sequence reach a terminal.

structlog comes with the services' extras and is imported only here, and only by `configure`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import textwrap
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import msgspec

Format = Literal["auto", "console", "json"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MULTILINE: Final = frozenset({"exception", "stack"})
_QUIET: Final = {
    "aio_pika": logging.CRITICAL,
    "aiormq": logging.CRITICAL,
    "alembic": logging.WARNING,
    "pika": logging.CRITICAL,
}
"""Libraries whose own level of detail would drown ours: each lost connection is logged once by us, with its reason.
`debug` lets them through."""
_MAX_FIELD: Final = 2000
"""Characters of one field's value; whatever is longer is cut and says so."""


def configure(level: str, format: Format, service: str, stream: TextIO | None = None) -> None:  # noqa: A002
    """Send everything that is logged to one handler on the root logger, replacing those that are there.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``console``, ``json``, or ``auto`` for ``console`` on a terminal and ``json`` otherwise.
        service: the ``service`` field of every line, in JSON.
        stream: where to write; standard error by default.
    """
    import structlog

    stream = stream if stream is not None else sys.stderr
    as_text = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Any] = [
        _Fields(structlog.stdlib.ExtraAdder()),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_text:
        colors = stream.isatty() and not os.environ.get("NO_COLOR")
        finish += [_escape, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_plain_traceback)]
    else:
        finish += [_ServiceName(service), structlog.processors.format_exc_info, _shorten, _render_json]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=finish, logger=None))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else quiet)
    logging.captureWarnings(True)


class _Fields:
    """Adds the fields given as ``extra``. One that happens to be called ``event`` must not replace the message."""

    def __init__(self, add: Any) -> None:
        self._add = add

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        message = event["event"]
        self._add(logger, method, event)
        event["event"] = message
        return event


class _ServiceName:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = self._service
        return event


def _escape(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every value safe for a terminal. A traceback keeps its line breaks: it is text over many lines."""
    for key, value in event.items():
        if key == "exc_info" or isinstance(value, (bool, int, float, type(None))):
            continue
        text = value if isinstance(value, str) else repr(value)
        event[key] = _cut(_CONTROL.sub(_escaped, text)) if key not in _MULTILINE else _visible(text)
    return event


def _shorten(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and key not in _MULTILINE:
            event[key] = _cut(value)
    return event


def _render_json(logger: Any, method: str, event: Mapping[str, Any]) -> str:
    """One line of JSON, the usual fields first. JSON escapes control characters by itself, but not U+2028 and C1."""
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    try:
        text = msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
    except (TypeError, ValueError, RecursionError):
        # Lone surrogates, keys that are no text, a cycle: a line is still better than none.
        text = json.dumps({key: value if isinstance(value, str) else repr(value) for key, value in event.items()})
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain_traceback(stream: TextIO, exc_info: Any) -> None:
    """The traceback, indented, so that no line of an exception's text can be taken for a line of the log."""
    text = logging.Formatter().formatException(exc_info)
    stream.write("\n" + textwrap.indent(_visible(text), "    ", lambda _: True))


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0] if match[0] in "\n\t" else _escaped(match), text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_FIELD else f"{text[:_MAX_FIELD]}... ({len(text)} characters)"

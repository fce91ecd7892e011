"""Where the values of settings come from: the TOML file, the environment, the command line. See `common.settings`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, get_type_hints

from msgspec import Struct, inspect

PREFIX: Final = "WARREN_"
CONFIG_VARIABLE: Final = "WARREN_CONFIG"
DEFAULT_FILE: Final = Path("warren.toml")

FALLBACKS: Final = {"amqp_url": ("AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL")}
"""Names that hosting platforms use, tried in this order when Warren's own variable is absent."""

TABLES: Final = ("scheduler", "worker", "client")

ELSEWHERE: Final = frozenset(
    {
        "config",
        "failpoints",
        "failpoints_once",
        # The scheduler's and the worker's fields. They may share one environment, and neither imports the other; a
        # test compares this list with both.
        "beat_interval",
        "child_environment",
        "database_url",
        "dead_after",
        "drain_target",
        "drain_timeout",
        "hold_after",
        "labels",
        "loop_blocked_after",
        "loop_lag_high",
        "max_crashes",
        "max_depth",
        "max_given_up",
        "max_lanes",
        "max_queues",
        "max_result_bytes",
        "max_task_bytes",
        "memory_high",
        "modules",
        "name",
        "operators",
        "process_tasks",
        "processes",
        "queue_patience",
        "queues",
        "rescue_interval",
        "result_ttl",
        "slots",
        "slow_after",
        "slow_factor",
        "store_commit_delay",
        "timeout_grace",
        "unknown_function_grace",
        "window_limit",
        "worker_users",
    }
)
"""Variables with our prefix that are not fields of the settings being loaded."""

_FREE_PREFIXES: Final = ("WARREN_TEST_", "WARREN_BENCH_")
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")
"""Kubernetes sets such variables for each Service of the namespace, and ours may well be called ``warren``."""
_BOOLEANS: Final = {"on": True, "yes": True, "off": False, "no": False}


@dataclass(frozen=True)
class Value:
    """One raw value and, in words, where it came from."""

    value: Any
    source: str


@cache
def field_types(cls: type[Struct]) -> dict[str, Any]:
    """The annotations of `cls`, with their metadata, by field."""
    return get_type_hints(cls, include_extras=True)


def is_secret(annotation: Any) -> bool:
    """Whether a field's annotation carries the mark `common.settings.SECRET`."""
    info = inspect.type_info(annotation)
    return isinstance(info, inspect.Metadata) and bool((info.extra or {}).get("secret"))


def collect(
    cls: type[Struct],
    common: Sequence[str],
    table: str,
    environ: Mapping[str, str],
    file: Path | None,
    overrides: Mapping[str, Any],
) -> tuple[dict[str, Value], list[str]]:
    """The raw value of each field that has one, the strongest source winning, and the faults found on the way.

    Args:
        cls: the Struct that will be filled.
        common: the fields that may stand at the top level of the file, whether `cls` has them or not.
        table: the program's table in the file.
        environ: the environment.
        file: the file of the command line, or None.
        overrides: what was given on the command line.
    """
    faults: list[str] = []
    values: dict[str, Value] = {}
    values.update(_from_file(cls, common, table, _find(file, environ), faults))
    values.update(_from_environment(cls, environ, faults))
    for name, value in overrides.items():
        if name not in cls.__struct_fields__:
            faults.append(f"there is no setting {name!r}{_suggest(name, cls.__struct_fields__)}")
        elif value is not None:
            values[name] = Value(value, "the command line")
    return values, faults


def _find(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _from_file(
    cls: type[Struct], common: Sequence[str], table: str, file: Path | None, faults: list[str]
) -> dict[str, Value]:
    if file is None:
        return {}
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(f"cannot read {file}: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"{file} is not valid TOML: {error}")
        return {}
    tables = {name: document.pop(name) for name in TABLES if isinstance(document.get(name), dict)}
    own = tables.get(table, {})
    fields = cls.__struct_fields__
    for key in sorted(document.keys() - set(common)):
        hint = f"; it belongs in the table [{table}]" if key in fields else _suggest(key, (*common, *TABLES))
        faults.append(f"{file}: unknown key {key!r}{hint}")
    faults += [
        f"{file}: unknown key {key!r} in [{table}]{_suggest(key, fields)}" for key in sorted(own.keys() - set(fields))
    ]
    top = {key: Value(value, str(file)) for key, value in document.items() if key in fields}
    inner = {key: Value(value, f"{file} [{table}]") for key, value in own.items() if key in fields}
    return top | inner


def _from_environment(cls: type[Struct], environ: Mapping[str, str], faults: list[str]) -> Iterator[tuple[str, Value]]:
    faults.extend(_unknown_variables(environ))
    for name, annotation in field_types(cls).items():
        variable = PREFIX + name.upper()
        direct = environ.get(variable)
        path = environ.get(f"{variable}_FILE") if is_secret(annotation) else None
        if direct and path:
            faults.append(f"{variable} and {variable}_FILE are both set; keep one")
        elif direct:
            yield name, Value(_split(annotation, direct), f"the environment variable {variable}")
        elif path:
            try:
                secret = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                faults.append(f"cannot read {path} (named by {variable}_FILE): {reason}")
            else:
                yield name, Value(secret, f"{path} (named by {variable}_FILE)")
        else:
            for fallback in FALLBACKS.get(name, ()):
                if text := environ.get(fallback):
                    yield name, Value(text, f"the environment variable {fallback}")
                    break


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = {PREFIX + name.upper() for name in ELSEWHERE}
    for each in _all_settings():
        for name, annotation in field_types(each).items():
            known.add(PREFIX + name.upper())
            if is_secret(annotation):
                known.add(f"{PREFIX}{name.upper()}_FILE")
    known.add("WARREN_DATABASE_URL_FILE")
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known or variable.startswith(_FREE_PREFIXES):
            continue
        if _KUBERNETES.search(variable) or environ[variable].startswith(("tcp://", "udp://")):
            continue
        yield f"unknown environment variable {variable}{_suggest(variable, sorted(known))}"


def _all_settings() -> Iterator[type[Struct]]:
    """Every settings class that this process has imported."""
    from common.settings import BrokerSettings

    pending: list[type[Struct]] = [BrokerSettings]
    while pending:
        cls = pending.pop()
        yield cls
        pending.extend(cls.__subclasses__())


def _split(annotation: Any, text: str) -> Any:
    """`text` of the environment in the form that the field's type is converted from."""
    kinds = _kinds(inspect.type_info(annotation))
    if kinds & {inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType}:
        return [item for item in (part.strip() for part in text.split(",")) if item]
    if inspect.BoolType in kinds:
        return _BOOLEANS.get(text.strip().lower(), text.strip())
    if inspect.LiteralType in kinds:
        return text.strip().lower()
    return text.strip()


def _kinds(info: inspect.Type) -> set[type[inspect.Type]]:
    if isinstance(info, inspect.Metadata):
        return _kinds(info.type)
    if isinstance(info, inspect.UnionType):
        return {kind for each in info.types for kind in _kinds(each)}
    return {type(info)}


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


__all__ = ["ELSEWHERE", "FALLBACKS", "Value", "collect", "field_types", "is_secret"]

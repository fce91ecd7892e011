"""Settings: one frozen, flat Struct for each program, checked once, before anything starts.

Sources, the later ones win: the defaults in the Struct, a TOML file, the environment, the command line. All faults are
reported together, each with where the value came from. Nothing else in Warren reads the environment.

File: the one on the command line, else ``WARREN_CONFIG``, else ``./warren.toml`` when it is there. Common settings are
its top-level keys; those of one program are in its table (``[scheduler]``, ``[worker]``, ``[client]``), where common
ones may be repeated to override the top level.

Environment: ``WARREN_<FIELD>``, lists separated by commas, an empty variable counts as absent. A secret can be in a
file named by ``WARREN_<FIELD>_FILE`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from common.errors import SettingsError
from common.sources import Value, collect, field_types, is_secret
from common.urls import check_amqp_url, is_host, is_memory, redact_url

SECRET: Final = Meta(extra={"secret": True})
"""Marks a field that is never shown: ``password: Annotated[str, SECRET]``. Of a URL only the password is hidden."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=0, le=65_535)]

_HIDDEN: Final = "***"


class BrokerSettings(Struct, frozen=True, kw_only=True):
    """How to reach the broker; the part that clients and services share.

    Attributes:
        amqp_url: the broker's address.
        namespace: the prefix of every exchange and queue.
        heartbeat: seconds between AMQP heartbeats.
        connect_timeout: seconds for one attempt to connect.
        publish_timeout: seconds to wait for the confirm of one publish.
        allow_plaintext: accept ``amqp://`` to other machines than this one.
        tls_ca_file: PEM file of the authorities that sign the broker's certificate; None for the system's.
    """

    amqp_url: Annotated[str, SECRET] = "amqp://guest:guest@localhost:5672/"
    namespace: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")] = "warren"
    heartbeat: Annotated[int, Meta(ge=5, le=600)] = 10
    connect_timeout: Seconds = 10.0
    publish_timeout: Seconds = 30.0
    allow_plaintext: bool = False
    tls_ca_file: str | None = None

    def faults(self) -> list[str]:
        """What is wrong with values that are right each by itself. Subclasses add theirs to ``super().faults()``."""
        faults = [
            f"amqp_url {redact_url(self.amqp_url)!r} {fault}"
            for fault in check_amqp_url(self.amqp_url, allow_plaintext=self.allow_plaintext)
        ]
        if self.tls_ca_file is not None and not is_there(Path(self.tls_ca_file), Path.is_file):
            faults.append(f"tls_ca_file {self.tls_ca_file!r} is not a file that can be read")
        return faults

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in redacted(self).items())
        return f"{type(self).__name__}({values})"


class ClientSettings(BrokerSettings, frozen=True, kw_only=True):
    """Settings of a client; table ``[client]``."""


class CommonSettings(BrokerSettings, frozen=True, kw_only=True):
    """Settings that every service has.

    Attributes:
        log_level: the least severe level that is logged.
        log_format: ``console`` for people, ``json`` for programs; ``auto`` is ``console`` on a terminal.
        http: whether to serve metrics and health at all.
        http_host: the address to bind.
        http_port: the port, or the next free one when it is taken; 0 for any free port.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    http: bool = True
    http_host: str = "127.0.0.1"
    http_port: Port = 0

    def faults(self) -> list[str]:
        """Besides the common ones: where metrics and health are to be served."""
        faults = super().faults()
        if not is_host(self.http_host):
            faults.append(f"http_host {self.http_host!r} is neither an IP address nor the name of a host")
        return faults


S = TypeVar("S", bound=BrokerSettings)


def load(
    cls: type[S],
    *,
    table: str,
    environ: Mapping[str, str],
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> S:
    """The settings of one program.

    Args:
        cls: the Struct to fill.
        table: the program's table in the file.
        environ: the environment, usually `os.environ`.
        file: the TOML file of the command line; None to look for one, see the module's docstring.
        overrides: what was given on the command line, by field; None values count as not given.

    Raises:
        SettingsError: with every fault, not only the first.
    """
    common = tuple(CommonSettings.__struct_fields__)
    values, faults = collect(cls, common, table, environ, file, overrides or {})
    types = field_types(cls)
    converted: dict[str, Any] = {}
    for name, value in values.items():
        try:
            converted[name] = msgspec.convert(value.value, types[name], strict=False)
        except msgspec.ValidationError as error:
            shown = "" if is_secret(types[name]) else f" {value.value!r}"
            faults.append(f"{name}{shown} (from {value.source}): {_lower_first(str(error))}")
    settings = cls(**converted)
    found = settings.faults()
    if issubclass(cls, CommonSettings) and is_memory(settings.amqp_url):
        # Services that are embedded in a test are not made from here.
        found.append(
            f"amqp_url {redact_url(settings.amqp_url)!r} is for tests within one process (common.testing); a service "
            "that runs by itself needs a broker, amqps://user:password@host/vhost"
        )
    faults += [f"{fault} ({_sources(fault, values)})" for fault in found]
    if faults:
        raise SettingsError(faults)
    return settings


def is_there(path: Path, is_so: Callable[[Path], bool]) -> bool:
    """Whether `path` is there and `is_so`; no for what cannot be looked at, or is no path."""
    try:
        return is_so(path)
    except (OSError, ValueError):
        return False


def redacted(settings: Struct) -> dict[str, Any]:
    """The settings by name, with secrets hidden: for logs and for people."""
    types = field_types(type(settings))
    return {
        name: _hide(getattr(settings, name)) if is_secret(types[name]) else getattr(settings, name)
        for name in settings.__struct_fields__
    }


def _hide(value: Any) -> Any:
    if not value:
        return value
    return redact_url(value) if isinstance(value, str) and "://" in value else _HIDDEN


def _sources(fault: str, values: Mapping[str, Value]) -> str:
    name = fault.partition(" ")[0]
    return f"from {values[name].source}" if name in values else "the default"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


__all__ = [
    "SECRET",
    "BrokerSettings",
    "ClientSettings",
    "CommonSettings",
    "Port",
    "Seconds",
    "is_there",
    "load",
    "redact_url",
    "redacted",
]

"""What may be in the addresses of brokers and hosts, and how an address is shown without its password."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

_ALLOWED_OPTIONS: Final = ("cafile", "capath", "certfile", "keyfile")
"""Certificates. Whatever weakens TLS, or repeats one of our settings, is refused."""

_PASSWORD = re.compile(r"(?P<before>//[^/?#@:]*:).*@", re.DOTALL)
_SECRET_OPTION = re.compile(r"(?P<before>[?&;][^=&;]*(?:pass|secret|token|key)[^=&;]*=)[^&;]*", re.IGNORECASE)
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\.?\Z){_LABEL}\.?")
_LONGEST_HOST: Final = 253
_HIDDEN: Final = "***"


def redact_url(url: str) -> str:
    """`url` with its password, and the values of options that look like secrets, replaced by ``***``.

    It works on text that is not a valid URL as well, and rather hides too much than too little.

    Example:
        >>> redact_url("amqp://warren:secret@broker/warren")
        'amqp://warren:***@broker/warren'
    """
    without_password = _PASSWORD.sub(rf"\g<before>{_HIDDEN}@", url)
    return _SECRET_OPTION.sub(rf"\g<before>{_HIDDEN}", without_password)


def check_amqp_url(url: str, *, allow_plaintext: bool) -> list[str]:
    """What is wrong with the address of a broker: one phrase each, none with the password in it.

    Args:
        url: ``amqp://`` or ``amqps://``, user, password, host, port, virtual host (RabbitMQ URI specification,
            https://www.rabbitmq.com/docs/uri-spec).
        allow_plaintext: accept ``amqp://`` to other machines too.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The error's own text may quote the password, when that is what broke the URL.
        return ["is not a valid URL; special characters in a password have to be written as %40 and so on"]
    faults = []
    if parts.scheme == "memory":
        return [] if parts.hostname else ["has no name: memory://user@name"]
    if parts.scheme not in {"amqp", "amqps"}:
        faults.append("has to begin with amqp:// or amqps://")
    if not parts.hostname:
        faults.append("has no host")
    elif not is_host(parts.hostname):
        faults.append("has a host that is neither an IP address nor the name of a host")
    if port == 0:
        faults.append("the port has to be 1 to 65535")
    if parts.path.count("/") > 1 and parts.path != "//":
        faults.append("a '/' in the virtual host's name has to be written as %2F")
    if parts.fragment:
        faults.append("has a '#', which has to be written as %23")
    faults += [
        f"option {name!r} is not allowed in the URL"
        for name, _ in parse_qsl(parts.query, keep_blank_values=True)
        if name not in _ALLOWED_OPTIONS
    ]
    if parts.scheme == "amqp" and parts.hostname and not allow_plaintext and not _is_loopback(parts):
        faults.append("would send the password in plain text to another machine; use amqps://, or set allow_plaintext")
    return faults


def is_host(name: str) -> bool:
    """Whether `name` is an IP address, or can be the name of a host (RFC 1123 section 2.1, and ``_``)."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return len(name) <= _LONGEST_HOST and _HOST.fullmatch(name) is not None
    return True


def is_memory(url: str) -> bool:
    """Whether `url` names a broker in this process's memory, `common.broker.memory`."""
    return url.lower().startswith("memory:")


def _is_loopback(parts: SplitResult) -> bool:
    host = (parts.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

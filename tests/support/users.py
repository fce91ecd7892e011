"""Broker users with the permissions of their roles, in a test's own namespace."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit, urlunsplit

from deploy.definitions import Role, permissions
from deploy.local import RabbitNode


@contextlib.contextmanager
def broker_users(node: RabbitNode, namespace: str, wanted: Mapping[str, Role]) -> Iterator[dict[str, str]]:
    """Make users, and delete them at the end.

    Args:
        node: where.
        namespace: whose names they may use.
        wanted: the role of each.

    Yields:
        The URL with which each connects.
    """
    urls: dict[str, str] = {}
    parts = urlsplit(node.url())
    try:
        for user, role in wanted.items():
            password, may = secrets.token_hex(8), permissions(role, user, namespace)
            patterns = ", ".join(_binary(pattern) for pattern in (may.configure, may.write, may.read))
            internal = "rabbit_auth_backend_internal"
            node.eval(f"{internal}:add_user({_binary(user)}, {_binary(password)}, <<>>).")
            node.eval(f"{internal}:set_permissions({_binary(user)}, <<$/>>, {patterns}, <<>>).")
            urls[user] = urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))
        yield urls
    finally:
        for user in urls:
            node.eval(f"rabbit_auth_backend_internal:delete_user({_binary(user)}, <<>>).")


def _binary(text: str) -> str:
    return '<<"' + text.replace("\\", "\\\\").replace('"', '\\"') + '">>'

"""What the broker of the Compose project is told on its first start: users, permissions, topology.

One user for each role, with the least that it needs; `guest` does not exist, since a node that imports definitions
makes no default user. Exchanges and queues come from `common.topology`, so that they cannot differ from what the
services declare.

RabbitMQ searches the pattern anywhere in a name (https://www.rabbitmq.com/docs/access-control), so each is anchored at
both ends. `tests/integration/test_permissions.py` tries on a live broker what is allowed and what is refused.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from common.topology import Exchange, Queue, Topology
from common.wire import DEFAULT_QUEUE

NOTHING: Final = "^$"
_NONCE: Final = "[A-Za-z0-9_-]{1,64}"
_LISTENER: Final = "[A-Za-z0-9_-]{1,96}"
"""A worker and one of its connections."""
_QUEUE: Final = "[A-Za-z0-9_.-]{1,64}"
_SALT_BYTES: Final = 4

CLIENT_QUEUE_MESSAGES: Final = 100_000
CLIENT_QUEUE_BYTES: Final = 256 * 1024 * 1024
"""A client that reads nothing costs the broker at most this much; what is dropped is asked for again."""
CLIENT_LIMITS: Final = {"max-connections": 1_000, "max-channels": 5_000}


class Role(StrEnum):
    """Who connects to the broker. The value is also the name of the user."""

    SCHEDULER = "scheduler"
    WORKER = "worker"
    CLIENT = "client"
    MONITORING = "monitoring"
    """May look at the management interface, and at no message."""


@dataclass(frozen=True)
class Permissions:
    """RabbitMQ's three patterns: names that a user may declare, write to and read from."""

    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING


def permissions(role: Role, user: str, namespace: str = "warren") -> Permissions:
    """What `user` may do in the virtual host.

    Args:
        role: the user's role.
        user: the login, part of the names of queues that belong to one connection.
        namespace: the prefix of every name.
    """
    match role:
        case Role.SCHEDULER:
            fixed = "submit|reply|request|dead|dlx|control|beat|event|work"
            own = f"{fixed}|scheduler[.]lock|work[.]{_QUEUE}|beat[.]{user}[.]{_NONCE}"
            return Permissions(
                _within(namespace, own), f"{_within(namespace, own)}|^amq[.]default$", _within(namespace, own)
            )
        case Role.WORKER:
            return Permissions(
                _within(namespace, f"direct[.]{_NONCE}|control[.]{_LISTENER}"),
                _within(namespace, f"reply|beat|event|dlx|submit|control[.]{_LISTENER}"),
                _within(namespace, f"work[.]{_QUEUE}|control|direct[.]{_NONCE}|control[.]{_LISTENER}"),
            )
        case Role.CLIENT:
            own = f"client[.]{user}[.]{_NONCE}"
            return Permissions(_within(namespace, own), _within(namespace, "submit|request"), _within(namespace, own))
        case Role.MONITORING:
            return Permissions()


def _within(namespace: str, names: str) -> str:
    return f"^{namespace}[.]({names})$"


def password_hash(password: str, salt: bytes | None = None) -> str:
    """Hash a password as RabbitMQ stores it (`rabbit_password_hashing_sha256`).

    Args:
        password: the password.
        salt: 4 bytes; random by default.

    Example:
        >>> password_hash("test12", bytes.fromhex("908dc60a"))
        'kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR'
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode("ascii")


def same_password(password: str, hashed: str) -> bool:
    """Whether `hashed` was made of `password`."""
    salt = base64.b64decode(hashed)[:_SALT_BYTES]
    return secrets.compare_digest(password_hash(password, salt), hashed)


def definitions(
    passwords: Mapping[Role, str],
    *,
    namespace: str = "warren",
    vhost: str = "warren",
    queues: Iterable[str] = (DEFAULT_QUEUE,),
    known_hashes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the broker's definitions (https://www.rabbitmq.com/docs/definitions).

    Args:
        passwords: by role; a role that is absent gets no user.
        namespace: the prefix of every exchange and queue.
        vhost: the virtual host to make.
        queues: work queues that exist from the start.
        known_hashes: hashes by user, kept where they fit the password, so that nothing changes without need.
    """
    topology = Topology(namespace)
    durable = [*topology.durable_queues(), *(topology.work_queue(name) for name in queues)]
    known = known_hashes or {}
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(role, password, known.get(role)) for role, password in passwords.items()],
        "permissions": [
            {"user": role.value, "vhost": vhost, **vars(permissions(role, role.value, namespace))} for role in passwords
        ],
        "exchanges": [_exchange(exchange, vhost) for exchange in topology.exchanges()],
        "queues": [_queue(queue, vhost) for queue in durable],
        "bindings": [binding for queue in durable for binding in _bindings(queue, vhost)],
        "parameters": [_client_queue_policy(namespace, vhost)],
    }


def _user(role: Role, password: str, known: str | None) -> dict[str, Any]:
    hashed = known if known is not None and same_password(password, known) else password_hash(password)
    return {
        "name": role.value,
        "password_hash": hashed,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": ["monitoring"] if role is Role.MONITORING else [],
        "limits": CLIENT_LIMITS if role is Role.CLIENT else {},
    }


def _exchange(exchange: Exchange, vhost: str) -> dict[str, Any]:
    return {
        "name": exchange.name,
        "vhost": vhost,
        "type": exchange.kind,
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _queue(queue: Queue, vhost: str) -> dict[str, Any]:
    return {
        "name": queue.name,
        "vhost": vhost,
        "durable": queue.durable,
        "auto_delete": False,
        "arguments": dict(queue.arguments),
    }


def _bindings(queue: Queue, vhost: str) -> list[dict[str, Any]]:
    if queue.exchange is None:
        return []
    return [
        {
            "source": queue.exchange.name,
            "vhost": vhost,
            "destination": queue.name,
            "destination_type": "queue",
            "routing_key": key,
            "arguments": {},
        }
        for key in queue.routing_keys
    ]


def _client_queue_policy(namespace: str, vhost: str) -> dict[str, Any]:
    """Bound the queues that clients declare: an operator policy, which a client's own arguments cannot exceed."""
    return {
        "vhost": vhost,
        "component": "operator_policy",
        "name": "client-queues",
        "value": {
            "pattern": f"^{namespace}[.]client[.]",
            "apply-to": "queues",
            "priority": 0,
            "definition": {"max-length": CLIENT_QUEUE_MESSAGES, "max-length-bytes": CLIENT_QUEUE_BYTES},
        },
    }

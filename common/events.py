"""The events of the parts that both services and the client share. See `common.telemetry`."""

from __future__ import annotations

from msgspec import Struct


class BrokerConnected(Struct, frozen=True, gc=False):
    """A connection to the broker is up, also after a reconnect.

    Attributes:
        connection: the name of the connection, such as ``scheduler.publish``.
        server_version: the broker's version, such as ``4.3.5``.
    """

    connection: str
    server_version: str


class BrokerLost(Struct, frozen=True, gc=False):
    """A connection to the broker ended or could not be made.

    Attributes:
        connection: the name of the connection.
        reason: why, in a few words.
    """

    connection: str
    reason: str


class Published(Struct, frozen=True, gc=False):
    """The broker confirmed one message.

    Attributes:
        connection: the name of the connection.
        seconds: from the call until the confirm.
        size: bytes of the body.
    """

    connection: str
    seconds: float
    size: int


class PublishFailed(Struct, frozen=True, gc=False):
    """One message was refused, or its confirm did not arrive in time.

    Attributes:
        connection: the name of the connection.
        reason: ``refused``, ``unroutable``, ``timeout`` or ``lost``: a closed set, since it becomes a metrics label.
    """

    connection: str
    reason: str

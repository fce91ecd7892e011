"""Who asks, and how a part answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from common.wire import Message

PATIENCE: Final = 0.25
"""Seconds for which one question is worked on; then the page that is there is the answer, and the client goes on."""


class Asker(Struct, frozen=True):
    """Who asks.

    Attributes:
        user: the broker user.
        reply_to: where the answer goes; one of the user's own queues.
        operator: may see everybody's tasks.
        administrator: may change what all tasks share, quotas and workers: an operator, or the scheduler's own user.
    """

    user: str
    reply_to: str
    operator: bool = False
    administrator: bool = False

    @property
    def owner(self) -> str | None:
        """Whose tasks the asker may see; None: everybody's."""
        return None if self.operator else self.user


FORBIDDEN: Final = "only operators may do this: broker users named by the scheduler's setting `operators`, or its own"

Answer = Callable[[Asker, bytes], Awaitable[Message]]
"""Answers one kind of question from its body.

Raises:
    WireError: the question cannot be read.
    StoreUnavailable: it cannot be answered now.
"""

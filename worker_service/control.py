"""Control messages: what a scheduler or an operator tells this worker, on a queue that lives as long as it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

from msgspec import Struct

from common.background import Periodic
from common.broker import Connection, Consumer, Delivery
from common.errors import BrokerError, WireError
from common.telemetry import Telemetry
from common.topology import Queue
from common.wire import Control, ControlVerb, check_type, decode
from worker_service.events import CommandUnreadable

LOOK = 10.0
"""Seconds between two looks at the queue's bindings: they are gone when somebody deletes the exchange."""

_HERE: Final = frozenset({ControlVerb.PROBE, ControlVerb.RENEW, ControlVerb.CANCEL, ControlVerb.MARK})

_log = logging.getLogger(__name__)


class Unreadable(Struct):
    """What it takes to say that a command cannot be understood."""

    token: str
    verb: str


class ControlListener:
    """Listens to control messages.

    Args:
        connection: the consuming connection.
        queue: makes a control queue of this worker for one connection: that of a connection which only this side knows
            to be dead would stay locked for a while.
        probe: called with the token of each `probe`.
        renew: called with the queue of each `renew`.
        cancel: called with the leases of each `cancel`.
        mark: called with the token and the number of each `mark`.
        missed: called when it begins to listen, since what was said before was not heard, and when that ends.
        command: called with every other message.
        refuse: called with the token of a command that cannot be understood, and the reason.
        telemetry: where `CommandUnreadable` goes.
    """

    def __init__(
        self,
        connection: Connection,
        queue: Callable[[], Queue],
        probe: Callable[[str], None],
        renew: Callable[[str], None],
        cancel: Callable[[Collection[str]], None],
        mark: Callable[[str, int], None],
        missed: Callable[[], None],
        command: Callable[[Control], None],
        refuse: Callable[[str, str], None],
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._command = command
        self._refuse = refuse
        self._probe = probe
        self._cancel = cancel
        self._mark = mark
        self._renew = renew
        self._consumer = Consumer(
            connection, queue, self._arrived, prefetch=0, no_ack=True, on_consuming=missed, on_ended=missed
        )
        self._looks = Periodic("control queue", LOOK, self._look)

    @property
    def consuming(self) -> bool:
        """True while the broker knows this consumer."""
        return self._consumer.consuming

    @property
    def fault(self) -> str:
        """See `Consumer.fault`."""
        return self._consumer.fault

    async def start(self) -> None:
        """Start listening; returns at once."""
        await self._consumer.start()
        self._looks.start()

    async def drain(self) -> None:
        """Nothing: a draining worker answers probes too."""

    async def stop(self) -> None:
        """Stop listening; the queue ends with the connection."""
        await self._looks.stop()
        await self._consumer.stop()

    async def _look(self) -> None:
        try:
            await self._consumer.rebind()
        except BrokerError as error:
            _log.debug("the control queue was not looked at", extra={"reason": str(error)})

    def _arrived(self, delivery: Delivery) -> None:
        try:
            check_type(Control, delivery.type)
            message = decode(Control, delivery.body)
        except WireError as error:
            self._not_understood(delivery, str(error))
            return
        if message.verb is ControlVerb.PROBE:
            self._probe(message.token)
        elif message.verb is ControlVerb.RENEW:
            self._renew(message.queue)
        elif message.verb is ControlVerb.CANCEL:
            self._cancel(message.leases)
        elif message.verb is ControlVerb.MARK:
            self._mark(message.token, message.number)
        else:
            self._command(message)

    def _not_understood(self, delivery: Delivery, reason: str) -> None:
        """Also a verb of a newer version: a worker does what it knows, and an operator waits for its answer."""
        _log.warning("a control message is ignored", extra={"reason": reason})
        self._telemetry.emit(CommandUnreadable())
        try:
            check_type(Control, delivery.type)
            known = decode(Unreadable, delivery.body)
        except WireError:
            return
        if known.token and known.verb not in _HERE:
            self._refuse(known.token, f"this worker does not understand the command {known.verb[:40]!r}: {reason}")

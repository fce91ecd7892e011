"""Every exchange, queue and argument, in one place.

All durable queues are quorum queues with the same arguments on every broker version, because RabbitMQ compares the
arguments of a declaration with those of the existing queue and an upgrade must not block the start
(https://www.rabbitmq.com/docs/queues#property-equivalence). The delivery limit is always explicit: the default of
4.x (20) drops confirmed messages after 21 consumer deaths, and -1 drops them at once on 3.10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NO_DELIVERY_LIMIT = 1_000_000
WORK_DELIVERY_LIMIT = 100
REQUEST_TTL_MS = 60_000
"""A question that no scheduler answered within this time is dropped; the client asks again."""

ExchangeKind = Literal["direct", "topic", "fanout"]
Argument = str | int


@dataclass(frozen=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: ExchangeKind


@dataclass(frozen=True)
class Queue:
    """A queue, and where it is bound.

    Attributes:
        name: the queue's name.
        durable: survives the broker's restart. Transient queues here are always exclusive: 4.3 refuses others.
        exclusive: belongs to one connection and ends with it.
        arguments: the ``x-`` arguments.
        exchange: the exchange it is bound to, or None for the default exchange only.
        routing_keys: the keys it is bound with.
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    arguments: dict[str, Argument] = field(default_factory=dict)
    exchange: Exchange | None = None
    routing_keys: tuple[str, ...] = ()


def _quorum(limit: int = NO_DELIVERY_LIMIT, **more: Argument) -> dict[str, Argument]:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": limit,
        **{f"x-{key.replace('_', '-')}": value for key, value in more.items()},
    }


class Topology:
    """The names of one namespace.

    Args:
        namespace: the prefix of every name, so that several systems can share a broker.

    Example:
        >>> Topology("warren").work_queue("email").name
        'warren.work.email'
    """

    def __init__(self, namespace: str = "warren") -> None:
        self.namespace = namespace
        name = self._name
        self.submit_exchange = Exchange(name("submit"), "direct")
        self.reply_exchange = Exchange(name("reply"), "direct")
        self.request_exchange = Exchange(name("request"), "direct")
        self.work_exchange = Exchange(name("work"), "direct")
        self.dead_exchange = Exchange(name("dlx"), "direct")
        self.control_exchange = Exchange(name("control"), "topic")
        self.beat_exchange = Exchange(name("beat"), "fanout")
        self.event_exchange = Exchange(name("event"), "topic")
        self.submit = Queue(name("submit"), True, False, _quorum(), self.submit_exchange, ("submit",))
        self.reply = Queue(name("reply"), True, False, _quorum(), self.reply_exchange, ("reply",))
        self.request = Queue(
            name("request"), True, False, _quorum(message_ttl=REQUEST_TTL_MS), self.request_exchange, ("request",)
        )
        self.dead = Queue(name("dead"), True, False, _quorum(), self.dead_exchange, ("dead",))
        self.lock = Queue(name("scheduler", "lock"), False, True)

    def _name(self, *parts: str) -> str:
        return ".".join((self.namespace, *parts))

    def exchanges(self) -> tuple[Exchange, ...]:
        """Every exchange, in an order in which they can be declared."""
        return (
            self.submit_exchange,
            self.reply_exchange,
            self.request_exchange,
            self.dead_exchange,
            self.work_exchange,
            self.control_exchange,
            self.beat_exchange,
            self.event_exchange,
        )

    def durable_queues(self) -> tuple[Queue, ...]:
        """The durable queues that exist from the start; work queues are declared on first use."""
        return (self.submit, self.reply, self.request, self.dead)

    def work_queue(self, queue: str) -> Queue:
        """The work queue behind the queue named `queue`; what it cannot deliver goes to `dead`."""
        arguments = _quorum(
            WORK_DELIVERY_LIMIT,
            dead_letter_exchange=self.dead_exchange.name,
            dead_letter_routing_key="dead",
        )
        return Queue(self._name("work", queue), True, False, arguments, self.work_exchange, (queue,))

    def control_queue(self, worker: str, nonce: str) -> Queue:
        """The exclusive queue on which the worker with this id hears control messages, on one of its connections."""
        keys = ("all", f"worker.{worker}")
        return Queue(
            self._name("control", f"{worker}-{nonce}"), False, True, _bounded(1000), self.control_exchange, keys
        )

    def direct_queue(self, worker: str) -> Queue:
        """The exclusive queue for what only this worker, or not every worker of a queue, can run.

        It ends with the worker's connection; what it held is then found in nobody's beat, and dispatched anew.
        """
        return Queue(self._name("direct", worker), False, True)

    def beat_queue(self, user: str, nonce: str) -> Queue:
        """The exclusive, bounded queue on which one scheduler hears beats."""
        name = self._name("beat", user, nonce)
        return Queue(name, False, True, _bounded(10_000), self.beat_exchange, ("beat",))

    def client_queue(self, user: str, nonce: str) -> Queue:
        """The exclusive queue on which one client connection is told results.

        Not one of the broker's own ``amq.gen-`` names: permissions could not tell them apart.
        """
        return Queue(self._name("client", user, nonce), False, True)

    def client_prefix(self, user: str) -> str:
        """What the ``reply_to`` of a message from `user` has to begin with."""
        return self._name("client", user) + "."


def _bounded(messages: int) -> dict[str, Argument]:
    return {"x-max-length": messages, "x-overflow": "drop-head"}

"""One pika connection of the sync client, from its opening to its end. The only module that imports pika.

Three channels, because an error on one closes only that one (AMQP 0-9-1 section 1.2.2.1): one hears results, one
publishes submissions with confirms, one asks questions. All of this runs in the client's I/O thread.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from pika import BasicProperties, ConnectionParameters, PlainCredentials, SelectConnection, SSLOptions
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, ChannelClosedByClient

from common.client.packs import Pack
from common.ids import new_nonce
from common.settings import BrokerSettings
from common.topology import Topology
from common.wire import CONTENT_TYPE, Message, Submission, encode

PERSISTENT: Final = 2
TRANSIENT: Final = 1
_NOT_FOUND: Final = 404


class Loop(IOLoop):  # type: ignore[misc]
    """Pika's I/O loop, which also knows the file descriptors that it watches."""

    def __init__(self) -> None:
        self.watched: set[int] = set()
        super().__init__()

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Watch a file descriptor."""
        self.watched.add(fd)
        super().add_handler(fd, handler, events)

    def remove_handler(self, fd: int) -> None:
        """Watch it no more."""
        self.watched.discard(fd)
        super().remove_handler(fd)


class Owner(Protocol):
    """Who is told what happens to a session. Everything is called in the I/O thread."""

    def session_ready(self) -> None:
        """Submissions can be published (again), and results are heard."""

    def session_lost(self, reason: str) -> None:
        """It ended, or could not be opened. Called once; nothing comes after it."""

    def message_arrived(self, kind: str | None, body: bytes, question: str | None) -> None:
        """A message is in the reply queue."""

    def pack_confirmed(self, pack: Pack) -> None:
        """The broker has taken it."""

    def pack_refused(self, pack: Pack, reason: str) -> None:
        """The broker has nacked it, or found no queue for it."""

    def publishing_closed(self, reason: str) -> None:
        """The broker closed the publishing channel because of one of the packs in flight."""

    def exchange_missing(self) -> None:
        """The submit exchange does not exist; it is being declared, then `session_ready` comes again."""

    def exchange_refused(self, reason: str) -> None:
        """The submit exchange does not exist and cannot be declared."""


class Session:
    """One connection. Making it begins to connect.

    Args:
        loop: where it runs.
        settings: the broker and the timeouts.
        topology: the names.
        owner: told what happens.
    """

    def __init__(self, loop: Loop, settings: BrokerSettings, topology: Topology, owner: Owner) -> None:
        self._topology = topology
        self._owner = owner
        parameters = connection_parameters(settings, f"{topology.namespace}.client.{os.getpid()}")
        self._user: str = parameters.credentials.username
        self._queue = topology.client_queue(self._user, new_nonce())
        self._listening = False
        self._over = False
        self._blocked = False
        self._publishing: Channel | None = None
        self._asking: Channel | None = None
        self._unsent: list[tuple[str, Message]] = []
        self._unconfirmed: dict[int, Pack] = {}
        self._returned: set[int] = set()
        self._published = 0
        self._connection = SelectConnection(
            parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
            custom_ioloop=loop,
        )
        self._connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        self._connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))

    @property
    def ready(self) -> bool:
        """True while something can be sent: connected, listening and not blocked by a resource alarm."""
        return self._publishing is not None and self._listening and not self._blocked

    def publish(self, pack: Pack) -> None:
        """Publish a submission; its outcome is told to the owner. Only while `ready`."""
        assert self._publishing is not None
        self._published += 1
        self._unconfirmed[self._published] = pack
        properties = self._properties(Submission.TYPE, PERSISTENT, message_id=str(self._published))
        exchange = self._topology.submit_exchange.name
        self._publishing.basic_publish(exchange, "submit", pack.body, properties, mandatory=True)

    def ask(self, question: str, ask: Message) -> None:
        """Send a question. Whether it arrives is not known; who asks does so again when there is no answer."""
        if self._asking is None:
            self._unsent.append((question, ask))
            if len(self._unsent) == 1:
                self._connection.channel(on_open_callback=self._asking_open)
            return
        properties = self._properties(ask.TYPE, TRANSIENT, correlation_id=question)
        self._asking.basic_publish(self._topology.request_exchange.name, "request", encode(ask), properties)

    def close(self) -> None:
        """Close in good order; `session_lost` follows when the broker has answered."""
        self._publishing = None
        if not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _properties(self, kind: str, mode: int, **more: str) -> BasicProperties:
        return BasicProperties(
            content_type=CONTENT_TYPE,
            type=kind,
            delivery_mode=mode,
            reply_to=self._queue.name,
            user_id=self._user,
            **more,
        )

    def _opened(self, connection: SelectConnection) -> None:
        connection.channel(on_open_callback=self._listening_open)
        connection.channel(on_open_callback=self._publishing_open)

    def _ended(self, connection: SelectConnection, reason: BaseException) -> None:
        if not self._over:
            self._over = True
            self._publishing = self._asking = None
            self._owner.session_lost(_text(reason))

    def _set_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        self._tell_ready()

    def _tell_ready(self) -> None:
        if self.ready and not self._over:
            self._owner.session_ready()

    # The reply queue: without it no connection is of use, so its end is the end of the session.

    def _listening_open(self, channel: Channel) -> None:
        channel.add_on_close_callback(lambda _, reason: self._give_up(reason))
        channel.add_on_cancel_callback(lambda _: self._give_up("the broker deleted the reply queue"))
        channel.queue_declare(
            self._queue.name,
            durable=self._queue.durable,
            exclusive=self._queue.exclusive,
            arguments=dict(self._queue.arguments),
            callback=lambda _: channel.basic_consume(
                self._queue.name, self._delivered, auto_ack=True, callback=self._consuming
            ),
        )

    def _consuming(self, _: object) -> None:
        self._listening = True
        self._tell_ready()

    def _delivered(self, _: Channel, __: object, properties: BasicProperties, body: bytes) -> None:
        self._owner.message_arrived(properties.type, body, properties.correlation_id)

    def _give_up(self, reason: BaseException | str) -> None:
        self._listening = False
        if self._connection.is_open:
            self._connection.close(reply_text=str(reason)[:200])

    # Submissions.

    def _publishing_open(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._publishing_closed)
        channel.add_on_return_callback(lambda _, __, properties, ___: self._returned.add(int(properties.message_id)))
        channel.confirm_delivery(self._confirmed, callback=lambda _: self._confirming(channel))

    def _confirming(self, channel: Channel) -> None:
        self._publishing = channel
        self._unconfirmed.clear()
        self._returned.clear()
        self._published = 0
        self._tell_ready()

    def _confirmed(self, frame: Any) -> None:
        tag: int = frame.method.delivery_tag
        taken = frame.method.NAME == "Basic.Ack"
        for number in [n for n in self._unconfirmed if n <= tag] if frame.method.multiple else [tag]:
            pack = self._unconfirmed.pop(number, None)
            if pack is None:
                continue
            if not taken:
                self._owner.pack_refused(pack, "the broker nacked it")
            elif number in self._returned:
                self._returned.discard(number)
                self._owner.pack_refused(pack, "unroutable: no queue is bound to the submit exchange")
            else:
                self._owner.pack_confirmed(pack)

    def _publishing_closed(self, channel: Channel, reason: BaseException) -> None:
        if self._over or not self._connection.is_open:
            return
        self._publishing = None
        if _code(reason) == _NOT_FOUND:
            self._owner.exchange_missing()
            self._connection.channel(on_open_callback=self._declare)
        else:
            self._owner.publishing_closed(_text(reason))
            self._connection.channel(on_open_callback=self._publishing_open)

    def _declare(self, channel: Channel) -> None:
        """Declare the submit exchange and its queue, as a scheduler that was here before would have."""
        exchange, queue = self._topology.submit_exchange, self._topology.submit
        channel.add_on_close_callback(self._declared)
        channel.exchange_declare(exchange.name, exchange.kind, durable=True)
        channel.queue_declare(queue.name, durable=queue.durable, arguments=dict(queue.arguments))
        for key in queue.routing_keys:
            channel.queue_bind(queue.name, exchange.name, key)
        channel.close()

    def _declared(self, channel: Channel, reason: BaseException) -> None:
        if self._over or not self._connection.is_open:
            return
        if not isinstance(reason, ChannelClosedByClient):
            self._owner.exchange_refused(
                f"the exchange {self._topology.submit_exchange.name!r} does not exist, since no scheduler has been "
                f"started in this namespace, and user {self._user!r} may not declare it: {_text(reason)}"
            )
        self._connection.channel(on_open_callback=self._publishing_open)

    # Questions.

    def _asking_open(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._asking_closed)
        self._asking = channel
        unsent, self._unsent = self._unsent, []
        for question, ask in unsent:
            self.ask(question, ask)

    def _asking_closed(self, channel: Channel, reason: BaseException) -> None:
        self._asking = None


def connection_parameters(settings: BrokerSettings, name: str) -> ConnectionParameters:
    """What pika has to know to connect.

    Args:
        settings: the broker and the timeouts.
        name: how the connection shows in the broker's management pages.
    """
    parts = urlsplit(settings.amqp_url)
    tls = parts.scheme == "amqps"
    return ConnectionParameters(
        host=parts.hostname or "localhost",
        port=parts.port or (5671 if tls else 5672),
        virtual_host=unquote(parts.path[1:]) or "/",
        credentials=PlainCredentials(
            unquote(parts.username or "guest"),
            unquote((parts.password or "") if parts.username else "guest"),
        ),
        heartbeat=settings.heartbeat,
        socket_timeout=settings.connect_timeout,
        stack_timeout=settings.connect_timeout,
        connection_attempts=1,
        client_properties={"connection_name": name},
        ssl_options=SSLOptions(_tls_context(settings, parts.query), parts.hostname) if tls else None,
    )


def _tls_context(settings: BrokerSettings, query: str) -> ssl.SSLContext:
    options = {key: values[-1] for key, values in parse_qs(query).items()}
    context = ssl.create_default_context(
        cafile=settings.tls_ca_file or options.get("cafile"), capath=options.get("capath")
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate := options.get("certfile"):
        context.load_cert_chain(certificate, options.get("keyfile"))
    return context


def _code(reason: BaseException) -> int:
    return int(reason.reply_code) if isinstance(reason, ChannelClosedByBroker) else 0


def _text(reason: BaseException) -> str:
    """What went wrong at the bottom of pika's nested exceptions."""
    inner = getattr(reason, "exception", None)
    nested = getattr(reason, "exceptions", None) or ((inner,) if inner else reason.args)
    if nested and isinstance(nested[-1], BaseException):
        return _text(nested[-1])
    code, text = getattr(reason, "reply_code", None), getattr(reason, "reply_text", None)
    return f"{code} {text}" if code else str(reason) or type(reason).__name__

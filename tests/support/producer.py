"""A client without the client library: it sends what it is given, right or wrong, and keeps what it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

from common.administration import Queues, Quotas, Rearranged
from common.broker import Connection, Consumer, Delivery, Publisher
from common.ids import new_nonce, new_task_id
from common.questions import Ask, AskKind, Cancel, Cancelled, DeadLetters, Filter, Statuses
from common.telemetry import Telemetry
from common.topology import Topology
from common.wire import Message, Submission, TaskResult, Told, decode, encode
from tests.support.waiting import eventually

_ANSWERS: dict[str, type[Message]] = {
    kind.TYPE: kind for kind in (Statuses, Cancelled, DeadLetters, Queues, Quotas, Rearranged)
}


class Producer:
    """One client connection with its reply queue.

    Attributes:
        told: the results by id, the last one told.
        times: how often each id was told.
        inbox: the name of the reply queue.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self.topology = Topology(namespace)
        telemetry = Telemetry()
        self.connection = Connection(url, name="producer", heartbeat=10, connect_timeout=10.0, telemetry=telemetry)
        self.publisher = Publisher(self.connection, timeout=10.0, telemetry=telemetry)
        queue = self.topology.client_queue(self.connection.user, new_nonce())
        self.inbox = queue.name
        self.told: dict[str, TaskResult] = {}
        self.times: dict[str, int] = {}
        self.answers: dict[str, Any] = {}
        self._consumer = Consumer(self.connection, queue, self._arrived, prefetch=0, no_ack=True)

    async def __aenter__(self) -> Self:
        await self.connection.start()
        await self.connection.ready(10.0)
        await self._consumer.start()
        await eventually(lambda: self._consumer.consuming)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self.connection.stop()

    def _arrived(self, delivery: Delivery) -> None:
        kind = _ANSWERS.get(delivery.type or "")
        if kind is not None:
            self.answers[delivery.correlation_id or ""] = decode(kind, delivery.body)
            return
        told = decode(Told, delivery.body)
        for result in told.results:
            self.told[result.id] = result
            self.times[result.id] = self.times.get(result.id, 0) + 1
        if delivery.correlation_id is not None:
            self.answers[delivery.correlation_id] = told

    async def send(self, body: bytes, *, queue: str = "submit", **properties: Any) -> None:
        """Publish `body` to the submit, request, reply, dead or beat queue of the scheduler, persistent and confirmed.

        The properties are those of a right submission (or question) where they are not given.
        """
        exchange = {"dead": self.topology.dead_exchange.name}.get(queue, f"{self.topology.namespace}.{queue}")
        given: dict[str, Any] = {}
        if queue in ("submit", "request"):
            given = {"user_id": self.connection.user, "reply_to": self.inbox}
            given["type"] = (Submission if queue == "submit" else Ask).TYPE
        await self.publisher.publish(exchange, queue, body, **(given | properties))

    async def submit(self, *tasks: dict[str, Any], **properties: Any) -> list[str]:
        """Submit tasks, in one message; what they lack is filled in. Returns their ids."""
        complete = [{"id": new_task_id(), "task": "add", "args": [2, 3]} | task for task in tasks or ({},)]
        await self.send(json.dumps({"tasks": complete}).encode(), **properties)
        return [task["id"] for task in complete]

    async def results(self, ids: list[str], *, timeout: float = 15.0) -> list[TaskResult]:
        """The results of `ids`, once all are told."""
        missing = f"results of {len(ids)} tasks"
        try:
            await eventually(lambda: all(id_ in self.told for id_ in ids), timeout=timeout)
        except AssertionError:
            raise AssertionError(f"{missing}: {sum(id_ in self.told for id_ in ids)} told") from None
        return [self.told[id_] for id_ in ids]

    async def result(self, id_: str, *, timeout: float = 15.0) -> TaskResult:
        """The result of one task."""
        return (await self.results([id_], timeout=timeout))[0]

    async def ask(self, kind: AskKind, ids: list[str]) -> Told | Statuses:
        """The answer to a question."""
        token = new_nonce()
        body = json.dumps({"kind": kind, "ids": ids}).encode()
        await self.send(body, queue="request", correlation_id=token)
        answer: Told | Statuses = await eventually(lambda: self.answers.get(token))
        return answer

    async def request(self, message: Message) -> Any:
        """The answer to any question."""
        token = new_nonce()
        await self.send(encode(message), queue="request", type=message.TYPE, correlation_id=token)
        return await eventually(lambda: self.answers.get(token))

    async def cancel(self, *ids: str, **where: Any) -> dict[str, str]:
        """Cancel tasks by id or by filter; the states of all pages."""
        states: dict[str, str] = {}
        after = None
        while True:
            page = await self.request(Cancel(Filter(ids=list(ids) or None, **where), after))
            states |= page.states
            after = page.next
            if after is None:
                return states

    async def status(self, id_: str) -> dict[str, Any]:
        """What the scheduler says of one task, by field."""
        answer = await self.ask(AskKind.STATUS, [id_])
        assert isinstance(answer, Statuses)
        (status,) = answer.statuses
        return {field: getattr(status, field) for field in status.__struct_fields__}

    async def ready(self, queue: str) -> int:
        """How many messages wait in a queue of the namespace."""
        channel = await self.connection.open_channel()
        async with asyncio.timeout(10.0):
            answer = await channel.queue_declare(queue=f"{self.topology.namespace}.{queue}", passive=True)
            await channel.close()
        return answer.message_count or 0

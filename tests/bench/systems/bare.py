"""The broker alone: the least that a round trip can take, whatever stands between the hops."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import aiormq
import aiormq.abc

from tests.bench.loop import new_runner
from tests.bench.site import Site
from tests.bench.systems import Burst, Command, Leftovers, Session

_HOPS = 3  # submission, bundle, reply: each through a quorum queue; the result goes through a transient one
_BODY = b"x" * 200


class Bare:
    """The four messages of one Warren task, published and consumed by the library alone, with nothing done between."""

    name, label = "bare", "(broker alone)"
    note = "no task system: three messages through quorum queues and one through a transient queue, in series"
    needs_redis = False
    distributions: tuple[str, ...] = ("aiormq",)
    workloads: tuple[str, ...] = ("round_trip",)

    def site(self, site: Site) -> Site:
        """Return it as it is."""
        return site

    def commands(self, site: Site) -> list[Command]:
        """Return nothing: there are no services."""
        return []

    def connect(self, site: Site) -> Session:
        """Connect as often as the processes of a task system do together."""
        return BareSession(site)

    def leftovers(self, site: Site) -> Leftovers:
        """Return the quorum queues."""
        return Leftovers(_names(site)[:_HOPS], [])


class BareSession:
    """A publishing and a consuming connection."""

    def __init__(self, site: Site) -> None:
        self._runner = new_runner()
        self._names = _names(site)
        self._runner.run(self._open(site.amqp_url))

    @property
    def bursts(self) -> Mapping[str, Callable[[int], Burst]]:
        """Return nothing: it runs no tasks."""
        return {}

    async def _open(self, url: str) -> None:
        self._connections = [await aiormq.connect(url) for _ in range(2)]
        self._publishing = await self._connections[0].channel(publisher_confirms=True)
        self._consuming = await self._connections[1].channel()
        self._confirms: set[asyncio.Task[Any]] = set()
        self._back: asyncio.Future[None] | None = None
        for hop, name in enumerate(self._names):
            last = hop == _HOPS
            arguments: dict[str, Any] = {} if last else {"x-queue-type": "quorum"}
            await self._consuming.queue_declare(name, durable=not last, exclusive=last, arguments=arguments)
            await self._consuming.basic_consume(name, self._arrived, no_ack=last)

    async def _arrived(self, message: aiormq.abc.DeliveredMessage) -> None:
        delivery: Any = message.delivery
        hop = self._names.index(delivery.routing_key)
        if hop < _HOPS:
            self._publish(hop + 1)
            await self._consuming.basic_ack(delivery.delivery_tag, wait=False)
        elif self._back is not None:
            self._back.set_result(None)

    def _publish(self, hop: int) -> None:
        properties = aiormq.spec.Basic.Properties(delivery_mode=1 if hop == _HOPS else 2)
        confirm = self._publishing.basic_publish(_BODY, routing_key=self._names[hop], properties=properties)
        task = asyncio.ensure_future(confirm)
        self._confirms.add(task)
        task.add_done_callback(self._confirms.discard)

    def round_trip(self, n: int) -> list[float]:
        """Send a message through all queues, `n` times, one after the other."""
        return self._runner.run(self._round_trip(n))

    async def _round_trip(self, n: int) -> list[float]:
        latencies = []
        for _ in range(n):
            began = time.perf_counter()
            self._back = asyncio.get_running_loop().create_future()
            self._publish(0)
            await self._back
            latencies.append(time.perf_counter() - began)
        return latencies

    def close(self) -> None:
        """Close both connections."""
        for connection in self._connections:
            self._runner.run(connection.close())
        self._runner.close()


def _names(site: Site) -> list[str]:
    return [f"bench-{site.run}.hop-{hop}" for hop in range(_HOPS + 1)]

"""The broker: exchanges, and what their bindings say where a message goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from common.broker.memory.queues import MemoryQueue


class MemoryBroker:
    """Exchanges, bindings and queues; make one with `memory_broker`."""

    def __init__(self) -> None:
        self.exchanges: dict[str, str] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._tasks: set[asyncio.Future[None]] = set()

    def bind(self, exchange: str, key: str, queue: str) -> None:
        """Bind a queue."""
        bindings = self._bindings.setdefault(exchange, [])
        if (key, queue) not in bindings:
            bindings.append((key, queue))

    def routed(self, exchange: str, key: str) -> list[MemoryQueue]:
        """The queues that a message goes to."""
        if not exchange:
            names = {key}
        else:
            kind = self.exchanges[exchange]
            matches = {"fanout": _any, "topic": _topic}.get(kind, str.__eq__)
            names = {queue for pattern, queue in self._bindings.get(exchange, ()) if matches(pattern, key)}
        return [self.queues[name] for name in sorted(names) if name in self.queues]

    def delete(self, queue: MemoryQueue) -> None:
        """Delete a queue with its bindings."""
        self.queues.pop(queue.name, None)
        for exchange, bindings in self._bindings.items():
            self._bindings[exchange] = [(key, name) for key, name in bindings if name != queue.name]

    def spawn(self, callback: Awaitable[None]) -> None:
        """Run a consumer's callback."""
        task = asyncio.ensure_future(callback)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def quiet(self) -> bool:
        """Whether no message is under way: what waits has nobody with room for it."""
        waiting = any(
            queue.ready and any(consumer.has_room for consumer in queue.consumers) for queue in self.queues.values()
        )
        return not (waiting or self._tasks)


def _any(pattern: str, key: str) -> bool:
    return True


def _topic(pattern: str, key: str) -> bool:
    """Whether a topic binding matches: ``*`` is one word, ``#`` any number (AMQP 0-9-1 section 3.1.3.3)."""
    return _words(pattern.split("."), key.split("."))


def _words(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words(pattern[1:], words[1:])


_BROKERS: dict[str, MemoryBroker] = {}


def memory_broker(name: str) -> MemoryBroker:
    """The broker of this name in this process."""
    return _BROKERS.setdefault(name, MemoryBroker())


def forget(name: str) -> None:
    """Throw the broker of this name away, with all that is in it."""
    _BROKERS.pop(name, None)

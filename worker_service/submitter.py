"""Tasks that task functions submit (`ctx.submit`), in confirmed messages: those that are there by now share one."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future

from common.broker import Publisher
from common.errors import BrokerError, ConnectionLost
from common.wire import MAX_PACK_BYTES, MAX_PACK_ITEMS, Submission, TaskMessage

_TASK_BYTES = 300
"""What a task takes besides its arguments."""

Waiting = tuple[TaskMessage, "Future[None]"]


class Submitter:
    """Submits tasks as the worker's own broker user, who is their owner.

    Args:
        publisher: with a channel of its own.
        exchange: the submit exchange's name.
        user: the broker user of the connection.
    """

    def __init__(self, publisher: Publisher, exchange: str, user: str) -> None:
        self._publisher = publisher
        self._exchange = exchange
        self._user = user
        self._waiting: deque[Waiting] = deque()
        self._woken = False
        self._closed = False
        self._sending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Be ready."""
        self._loop = asyncio.get_running_loop()

    async def drain(self) -> None:
        """Nothing: what runs may still submit."""

    async def stop(self) -> None:
        """Submit nothing more; whoever waits hears that."""
        self._closed = True
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        if sending:
            await asyncio.wait(sending)
        while self._waiting:
            self._waiting.popleft()[1].set_exception(ConnectionLost("the worker stops"))

    def submit(self, message: TaskMessage) -> Future[None]:
        """Submit it; done when the broker has confirmed it. May be called in any thread."""
        done: Future[None] = Future()
        if self._closed or self._loop is None:
            done.set_exception(ConnectionLost("the worker stops"))
            return done
        self._waiting.append((message, done))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._send)
        return done

    def _send(self) -> None:
        self._woken = False
        while self._waiting:
            pack = [self._waiting.popleft()]
            size = _size(pack[0][0])
            while self._waiting and len(pack) < MAX_PACK_ITEMS:
                size += _size(self._waiting[0][0])
                if size > MAX_PACK_BYTES:
                    break
                pack.append(self._waiting.popleft())
            task = asyncio.get_running_loop().create_task(self._publish(pack), name="submit")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _publish(self, pack: list[Waiting]) -> None:
        fault: Exception | None = ConnectionLost("the worker stops")
        try:
            submission = Submission([message for message, _ in pack])
            await self._publisher.publish(self._exchange, "submit", submission, user_id=self._user)
            fault = None
        except BrokerError as error:
            fault = error
        finally:
            for _, done in pack:
                if done.cancelled():
                    continue  # whoever waited was cancelled
                if fault is None:
                    done.set_result(None)
                else:
                    done.set_exception(fault)


def _size(message: TaskMessage) -> int:
    return _TASK_BYTES + len(memoryview(message.args)) + len(memoryview(message.kwargs))

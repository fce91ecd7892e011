"""What aio-pika raises, in our own words.

A frozen or vanished broker surfaces from aio-pika as `CancelledError`, a BaseException that passes every
``except Exception`` and ends the loop that met it. It was our own cancellation only when the current task counts a
cancel request (`asyncio.Task.cancelling`); otherwise it means that the connection is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aio_pika.exceptions
import aiormq.exceptions

from common.errors import BrokerRefused, ConnectionLost, PublishRefused, PublishUnknown

_CODES: dict[type[BaseException], int] = {
    aiormq.exceptions.ChannelAccessRefused: 403,
    aiormq.exceptions.ChannelNotFoundEntity: 404,
    aiormq.exceptions.ChannelLockedResource: 405,
    aiormq.exceptions.ChannelPreconditionFailed: 406,
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn aio-pika's exceptions inside the block into Warren's.

    Args:
        doing: what the block does, for the message ("publish to warren.work").

    Raises:
        PublishRefused: nacked, or returned as unroutable.
        PublishUnknown: no answer in time.
        BrokerRefused: the broker closed the channel and said why.
        ConnectionLost: anything else that ends a connection or channel.
        CancelledError: this task was asked to end meanwhile, whatever else has happened.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except aiormq.exceptions.PublishError as error:
        raise PublishRefused(f"{doing}: unroutable, no queue is bound for it", unroutable=True) from error
    except aiormq.exceptions.DeliveryError as error:
        raise PublishRefused(f"{doing}: the broker nacked it") from error
    except TimeoutError as error:
        raise PublishUnknown(f"{doing}: no answer in time") from error
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise
        raise ConnectionLost(f"{doing}: the connection ended") from error
    except tuple(_CODES) as error:
        raise BrokerRefused(_CODES[type(error)], f"{doing}: {_text(error)}") from error
    except (aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPError, OSError, RuntimeError) as error:
        raise ConnectionLost(f"{doing}: {_text(error)}") from error
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _text(error: BaseException) -> str:
    return " ".join(str(part) for part in error.args if part is not None) or type(error).__name__

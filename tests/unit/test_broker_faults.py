"""What aio-pika raises, in Warren's words; and that no request to end is lost on the way."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aiormq.exceptions
import pytest
from aiormq import spec

from common.broker.faults import translated
from common.errors import BrokerError, BrokerRefused, ConnectionLost, PublishRefused, PublishUnknown


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (aiormq.exceptions.DeliveryError(None, spec.Basic.Nack()), PublishRefused),
        (TimeoutError(), PublishUnknown),
        (asyncio.CancelledError(), ConnectionLost),
        (aiormq.exceptions.ChannelNotFoundEntity("404"), BrokerRefused),
        (aiormq.exceptions.ChannelClosed(None, None), ConnectionLost),
        (OSError("gone"), ConnectionLost),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
async def test_each_of_them_has_a_name_here(raised: BaseException, expected: type[BrokerError]) -> None:
    with pytest.raises(expected, match="ask") as caught, translated("ask"):
        raise raised
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    "instead",
    [None, aiormq.exceptions.ChannelClosed(None, None), asyncio.CancelledError()],
    ids=["nothing", "ChannelClosed", "CancelledError"],
)
async def test_a_request_to_end_is_kept_when_it_is_swallowed(instead: BaseException | None) -> None:
    async def end_otherwise() -> None:
        with translated("close a channel"):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            if instead is not None:
                raise instead

    task = asyncio.create_task(end_otherwise())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()


async def test_one_that_was_asked_to_end_before_can_still_clean_up() -> None:
    cleaned = False

    async def clean_up() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            with translated("close a channel"):
                await asyncio.sleep(0)
            cleaned = True

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert cleaned

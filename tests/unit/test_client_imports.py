"""`from common import ...` imports no more than it has to."""

import subprocess
import sys
from pathlib import Path

import pytest

import common

USE = """
from common import Client, ResultTimeout
from common.ids import new_task_id

with Client("amqp://127.0.0.1:1") as client:
    try:
        client.handle(new_task_id()).status(timeout=1)
    except ResultTimeout:
        pass
"""
USE_ASYNC = """
import asyncio
from common import AsyncClient

async def use():
    async with AsyncClient("amqp://127.0.0.1:1"):
        pass

asyncio.run(use())
"""
HEAVY = {"pika", "aio_pika", "aiormq", "prometheus_client", "sqlalchemy", "click", "structlog", "rich"}


def loaded_after(statement: str) -> set[str]:
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
    )
    return set(done.stdout.split()) & HEAVY


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("from common import Client, call, task; Client('amqp://localhost')", set()),
        ("from common import AsyncClient, call, task; AsyncClient('amqp://localhost')", set()),
        ("from common import *", set()),
        ("import common; common.__version__", set()),
        (USE, {"pika"}),
        (USE_ASYNC, {"aio_pika", "aiormq"}),
    ],
)
def test_clients_are_light_until_they_are_used(statement: str, loaded: set[str]) -> None:
    assert loaded_after(statement) == loaded


def test_everything_that_is_announced_is_there() -> None:
    for name in common.__all__:
        assert getattr(common, name) is not None
    assert set(dir(common)) == set(common.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = common.nonsense
    assert common.WARREN == "warren.common"

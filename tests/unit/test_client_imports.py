"""`from common import ...` imports no more than it has to."""

import subprocess
import sys
from pathlib import Path

import pytest

import common

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
        ("from common import AsyncClient, call", {"aio_pika", "aiormq"}),
        ("from common import *", {"aio_pika", "aiormq"}),
        ("import common; common.__version__", set()),
    ],
)
def test_each_client_imports_its_own_library_only(statement: str, loaded: set[str]) -> None:
    assert loaded_after(statement) == loaded


def test_everything_that_is_announced_is_there() -> None:
    for name in common.__all__:
        assert getattr(common, name) is not None
    assert set(dir(common)) == set(common.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = common.nonsense
    assert common.WARREN == "warren.common"

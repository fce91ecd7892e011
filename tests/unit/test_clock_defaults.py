"""No part binds a clock of Python's when it is imported: see `common.clocks`."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for package in ("common", "scheduler_service", "worker_service") for path in (ROOT / package).rglob("*.py")
]


def bound_clocks(source: str) -> list[str]:
    """The defaults of arguments that are a function of `time` itself."""
    arguments = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.arguments)]
    defaults = [default for each in arguments for default in (*each.defaults, *each.kw_defaults) if default is not None]
    return [ast.unparse(each) for each in defaults if ast.unparse(each) in ("time.time", "time.monotonic")]


def test_a_bound_clock_is_found() -> None:
    assert bound_clocks("def f(a, *, clock=time.time, wall=wall): ...") == ["time.time"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_clock_is_bound_at_import(path: Path) -> None:
    assert bound_clocks(path.read_text()) == []

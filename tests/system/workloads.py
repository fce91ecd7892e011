"""What the system tests submit, and what they expect of it."""

from collections.abc import Callable
from pathlib import Path

from common.tasks import Call
from tests.support.journal import Expected


def squares(key: int) -> tuple[Call[int], Expected]:
    """A task of 0 to 6 ms, every fifth one a plain function."""
    name = "square_in_thread" if key % 5 == 0 else "square"
    return Call(name, (key, 0.002 * (key % 4))), Expected(key, key * key)


def naps(seconds: float) -> Callable[[int], tuple[Call[int], Expected]]:
    """Tasks that all take this long."""
    return lambda key: (Call("square", (key, seconds)), Expected(key, key * key))


def gated(gate: Path) -> Callable[[int], tuple[Call[int], Expected]]:
    """Tasks that all take until this file is there."""
    return lambda key: (Call("square_behind_gate", (key, str(gate))), Expected(key, key * key))

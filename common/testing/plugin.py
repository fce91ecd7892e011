"""The pytest fixture `warren_test`; pytest finds it by the entry point ``warren`` of the group ``pytest11``.

It is imported in each run of pytest where Warren is installed, so it imports nothing but pytest until the fixture is
used. It adds no option, hook or marker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from common.tasks import TaskFunction
    from common.testing.harness import WarrenTest

__all__ = ["WarrenFactory", "warren_test"]

R = TypeVar("R")


class WarrenFactory:
    """Makes harnesses; what the fixture `warren_test` is.

    Example::

        async def test_reminder(warren_test: WarrenFactory) -> None:  # with pytest-asyncio or anyio
            async with warren_test() as warren:
                assert await warren.run(remind, "anna") == "anna was reminded"

        def test_reminder_too(warren_test: WarrenFactory) -> None:  # without
            async def scenario(warren: WarrenTest) -> None:
                assert await warren.run(remind, "anna") == "anna was reminded"

            warren_test.play(scenario)
    """

    def __call__(self, tasks: Mapping[str, TaskFunction[..., Any]] | None = None, **more: Any) -> WarrenTest:
        """A harness for ``async with``; the arguments are those of `WarrenTest`."""
        from common.testing.harness import WarrenTest

        return WarrenTest(tasks, **more)

    def play(
        self,
        scenario: Callable[[WarrenTest], Awaitable[R]],
        tasks: Mapping[str, TaskFunction[..., Any]] | None = None,
        **more: Any,
    ) -> R:
        """Run a coroutine function with a harness, in an event loop of its own, and return what it returns.

        Args:
            scenario: given the harness, which is running.
            tasks, more: the arguments of `WarrenTest`.

        Raises:
            RuntimeError: an event loop runs here already; use ``async with warren_test()`` there.
        """
        import asyncio

        async def played() -> R:
            async with self(tasks, **more) as warren:
                return await scenario(warren)

        # asyncio's own, whatever the event loop policy says: the clock of others cannot be put forward.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(played())


@pytest.fixture
def warren_test() -> Iterator[WarrenFactory]:
    """Makes harnesses (`common.testing.WarrenTest`): use it with ``async with``, or `play`."""
    yield WarrenFactory()
    _no_clock_left()


def _no_clock_left() -> None:
    import sys

    # A test that has not made one has not imported it.
    clock = sys.modules.get("common.testing.clock")
    if clock is not None and clock.Clock.release():
        pytest.fail("the test has not left its WarrenTest: use `async with`", pytrace=False)

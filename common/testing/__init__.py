"""Warren in one process, for the tests of its users: no broker, no sleeping.

::

    async def test_reminder() -> None:
        async with WarrenTest() as warren:
            handle = await warren.client.options(delay=3600).submit(remind, "anna")
            await warren.advance(3600)
            assert await handle.result(timeout=1) == "anna was reminded"

`docs/testing.md` has the rest, and the pytest fixture `warren_test`. `WarrenTest` is imported on first use, because
pytest imports `common.testing.plugin` in each of its runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.testing.harness import WarrenTest

__all__ = ["WarrenTest"]


def __getattr__(name: str) -> Any:
    if name != "WarrenTest":
        raise AttributeError(f"module 'common.testing' has no attribute {name!r}")
    from common.testing.harness import WarrenTest

    globals()[name] = WarrenTest
    return WarrenTest

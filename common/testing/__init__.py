"""Warren in one process, for the tests of its users: no broker, no sleeping.

::

    async def test_reminder() -> None:
        async with WarrenTest() as warren:
            handle = await warren.client.options(delay=3600).submit(remind, "anna")
            await warren.advance(3600)
            assert await handle.result(timeout=1) == "anna was reminded"
"""

from common.testing.harness import WarrenTest

__all__ = ["WarrenTest"]

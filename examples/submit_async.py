"""Submit tasks from asyncio: submits that run at the same time share messages.

Needs a scheduler and a worker with `examples.tasks`; see there.
"""

import asyncio

from common import AsyncClient
from examples.tasks import add, nap


async def main() -> None:
    """Submit a hundred tasks at once, then print each result when it is there."""
    async with AsyncClient() as client:
        handles = await asyncio.gather(*(client.submit(add, number, number) for number in range(100)))
        print(sum([await handle.result(timeout=10) for handle in handles]))

        naps = await asyncio.gather(*(client.options(priority=9).submit(nap, seconds) for seconds in (0.3, 0.1, 0.2)))
        async for done in client.as_completed(naps, timeout=10):
            print(f"slept {await done.result()} s")


if __name__ == "__main__":
    asyncio.run(main())

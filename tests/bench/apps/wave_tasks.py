"""The task function of the load wave; it runs in containers that have nothing of the tests but this file."""

import asyncio

from common import task


@task
async def nap(key: int, seconds: float, host: str, port: int) -> int:
    """Tell the counter that `key` runs now, then take a while."""
    _, writer = await asyncio.open_connection(host, port)
    writer.write(f"{key}\n".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(seconds)
    return key

"""The event loop of the asynchronous clients: uvloop for each of them where it is installed."""

import asyncio


def new_runner() -> asyncio.Runner:
    """Return a runner on uvloop, or on asyncio's own loop where uvloop is missing."""
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)

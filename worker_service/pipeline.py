"""One attempt from its raw arguments to its outcome: decode, check, run, classify.

Both functions never raise: whatever a task function does, also `SystemExit`, `KeyboardInterrupt` or
`asyncio.CancelledError`, is the outcome of this task and not of the worker.
"""

from __future__ import annotations

from time import perf_counter

from common import failpoints
from common.wire import Assignment, ErrorKind, Outcome
from worker_service.arguments import BadArguments
from worker_service.handlers import Handler
from worker_service.results import Limits, failed, succeeded


async def run_coroutine(assignment: Assignment, handler: Handler, limits: Limits) -> Outcome:
    """Run a coroutine function.

    Args:
        assignment: the attempt.
        handler: its task function.
        limits: bounds on arguments and results.
    """
    started = perf_counter()
    try:
        await failpoints.reached("worker.before_start")
        args, kwargs = handler.arguments.decode(assignment.args, assignment.kwargs, limits.depth)
        await failpoints.reached("worker.after_start")
        value = await handler.function(*args, **kwargs)
    except BadArguments as error:
        return failed(assignment, ErrorKind.BAD_ARGUMENTS, error, 0.0, with_traceback=False)
    except BaseException as error:  # noqa: BLE001 - see the module's docstring
        return failed(assignment, ErrorKind.EXCEPTION, error, perf_counter() - started)
    return succeeded(assignment, value, perf_counter() - started, limits)


def run_plain(assignment: Assignment, handler: Handler, limits: Limits) -> Outcome:
    """Run a plain function in the calling thread. Arguments as of `run_coroutine`."""
    started = perf_counter()
    try:
        failpoints.hit("worker.before_start")
        args, kwargs = handler.arguments.decode(assignment.args, assignment.kwargs, limits.depth)
        failpoints.hit("worker.after_start")
        value = handler.function(*args, **kwargs)
    except BadArguments as error:
        return failed(assignment, ErrorKind.BAD_ARGUMENTS, error, 0.0, with_traceback=False)
    except BaseException as error:  # noqa: BLE001 - see the module's docstring
        return failed(assignment, ErrorKind.EXCEPTION, error, perf_counter() - started)
    return succeeded(assignment, value, perf_counter() - started, limits)

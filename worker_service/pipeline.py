"""One attempt from its raw arguments to its outcome: decode, check, run, classify.

Both functions never raise: whatever a task function does, also `SystemExit`, `KeyboardInterrupt` or
`asyncio.CancelledError`, is the outcome of this task and not of the worker.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from common import failpoints
from common.context import TaskContext, current
from common.errors import Fail, Retry, TaskTimeout
from common.options import LONGEST, policy_of
from common.wire import ErrorKind, Outcome
from worker_service.advice import advise
from worker_service.arguments import BadArguments
from worker_service.handlers import Handler
from worker_service.interrupts import CoroutineInterrupt, SignalInterrupt, ThreadInterrupt
from worker_service.results import Limits, failed, failure, succeeded

_log = logging.getLogger(__name__)


async def run_coroutine(
    context: TaskContext, handler: Handler, limits: Limits, interrupt: CoroutineInterrupt | None = None
) -> Outcome:
    """Run a coroutine function.

    Args:
        context: the attempt.
        handler: its task function.
        limits: bounds on arguments and results.
        interrupt: by what its timeout is raised in it; None without a timeout.
    """
    assignment = context.assignment
    current.set(context)
    started = perf_counter()
    try:
        await failpoints.reached("worker.before_start")
        args, kwargs = handler.arguments.decode(assignment.args, assignment.kwargs, limits.depth)
        await failpoints.reached("worker.after_start")
        running = handler.function(*args, **kwargs)
        value = await (running if interrupt is None else interrupt.run(running))
        if context.children is not None:
            for child in context.children:
                await child
    except BadArguments as error:
        return failed(assignment, ErrorKind.BAD_ARGUMENTS, error, 0.0, with_traceback=False)
    except BaseException as error:  # noqa: BLE001 - see the module's docstring
        if interrupt is not None and interrupt.pending and isinstance(error, asyncio.CancelledError):
            error = TaskTimeout().with_traceback(error.__traceback__)  # it came when the function was over
        return _classified(context, handler, error, perf_counter() - started)
    return succeeded(assignment, value, perf_counter() - started, limits, handler.check_result)


def run_plain(
    context: TaskContext, handler: Handler, limits: Limits, interrupt: ThreadInterrupt | SignalInterrupt | None = None
) -> Outcome:
    """Run a plain function in the calling thread. Arguments as of `run_coroutine`."""
    assignment = context.assignment
    current.set(context)
    started = perf_counter()
    try:
        failpoints.hit("worker.before_start")
        args, kwargs = handler.arguments.decode(assignment.args, assignment.kwargs, limits.depth)
        failpoints.hit("worker.after_start")
        if interrupt is None:
            value = handler.function(*args, **kwargs)
        else:
            value = interrupt.call(handler.function, args, kwargs)
    except BadArguments as error:
        return failed(assignment, ErrorKind.BAD_ARGUMENTS, error, 0.0, with_traceback=False)
    except BaseException as error:  # noqa: BLE001 - see the module's docstring
        return _classified(context, handler, error, perf_counter() - started)
    return succeeded(assignment, value, perf_counter() - started, limits, handler.check_result)


def _classified(context: TaskContext, handler: Handler, error: BaseException, seconds: float) -> Outcome:
    """The outcome of a task function that raised, whatever the exception's own code does."""
    try:
        after = _wait(error) if isinstance(error, Retry) else None
        kind = _kind(error)
        outcome = failed(context.assignment, kind, error, seconds)
        outcome.advice = advise(policy_of(context.assignment.policy, handler.policy), kind, type(error), after)
    except BaseException:  # noqa: BLE001 - without an outcome it would hold its slot for ever
        _log.exception("an exception cannot be looked at", extra={"task_id": context.assignment.id})
        text = "it raised what cannot be looked at"
        return failure(context.assignment, ErrorKind.EXCEPTION, "Exception", text, seconds=seconds)
    return outcome


def _wait(error: Retry) -> float | None:
    """The seconds it asks for, if they are any: its class may have another `__init__`, and anybody may set them."""
    after = error.after
    return float(after) if isinstance(after, (int, float)) and 0 <= after <= LONGEST else None


def _kind(error: BaseException) -> ErrorKind:
    if isinstance(error, Retry):
        return ErrorKind.RETRY
    if isinstance(error, Fail):
        return ErrorKind.GAVE_UP
    if isinstance(error, TaskTimeout) or (isinstance(error, BaseExceptionGroup) and _only_timeouts(error)):
        return ErrorKind.TIMEOUT
    return ErrorKind.EXCEPTION


def _only_timeouts(group: BaseExceptionGroup[BaseException]) -> bool:
    """Whether a task group that the timeout came into has nothing else to say."""
    return group.split(TaskTimeout)[1] is None

"""Inside one of the worker's processes: attempts in, outcomes out, one at a time, until the worker is done with it."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from typing import Any

from common.context import TaskContext
from common.options import Policy, policy_of
from common.wire import ErrorKind, Outcome, decode, encode
from worker_service.handlers import Handler
from worker_service.interrupts import CoroutineInterrupt, SignalInterrupt
from worker_service.pipeline import run_coroutine, run_plain
from worker_service.results import Limits, failure
from worker_service.runtimes.frames import ANSWER, OUTCOME, Work, read_frame
from worker_service.runtimes.limits import deadline
from worker_service.runtimes.memory import limited, mebibytes
from worker_service.runtimes.stack_channel import Teller
from worker_service.runtimes.talk import Talk


class Server:
    """Runs what comes through `pipe`.

    Args:
        pipe: shared with the worker.
        handlers: the task functions.
        limits: bounds on arguments and results.
        teller: tells where the function is.
    """

    def __init__(self, pipe: socket.socket, handlers: dict[str, Handler], limits: Limits, teller: Teller) -> None:
        self._teller = teller
        self._pipe = pipe
        self._handlers = handlers
        self._limits = limits
        self._talk = Talk(pipe)
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> None:
        """Run one attempt after another, until the worker closes its end."""
        while True:
            try:
                kind, body = read_frame(self._pipe)
            except EOFError:
                return
            if kind == ANSWER:
                self._talk.not_waited_for()
                continue
            outcome = self._run(decode(Work, body))
            self._talk.flush()
            self._talk.send(OUTCOME, encode(outcome))

    def _run(self, work: Work) -> Outcome:
        assignment = work.assignment
        handler = self._handlers.get(assignment.task)
        if handler is None:
            return failure(assignment, ErrorKind.CRASHED, "NotFound", "the child process does not know the function")
        policy = policy_of(assignment.policy, handler.policy)
        context = TaskContext(assignment, work.queue, self._talk)
        context.deadline = deadline(policy)
        self._talk.lease = assignment.lease
        with limited(policy.memory_limit):
            outcome = self._run_limited(context, handler, policy)
        if outcome.error is not None and outcome.error.type == MemoryError.__name__ and policy.memory_limit:
            limit = mebibytes(policy.memory_limit)
            outcome.error.message = f"it took more than its memory_limit of {limit}. {outcome.error.message}".rstrip()
        return outcome

    def _run_limited(self, context: TaskContext, handler: Handler, policy: Policy) -> Outcome:
        if handler.is_coroutine:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self._loop)
            # Not `asyncio.run`: it waits for tasks that the function left behind, and the result is there already.
            return self._loop.run_until_complete(self._run_coroutine(context, handler, policy.timeout))
        interrupt = None if policy.timeout is None else SignalInterrupt(policy.timeout)
        self._talk.interrupt = interrupt
        # A context of its own for each task: a variable that one sets must not reach the next.
        outcome = contextvars.Context().run(run_plain, context, handler, self._limits, interrupt)
        self._talk.interrupt = None
        return outcome

    async def _run_coroutine(self, context: TaskContext, handler: Handler, timeout: float | None) -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        with self._teller.answering(context.assignment.lease, task):
            return await self._run_timed(context, handler, timeout, task)

    async def _run_timed(
        self, context: TaskContext, handler: Handler, timeout: float | None, task: asyncio.Task[Any]
    ) -> Outcome:
        if timeout is None:
            return await run_coroutine(context, handler, self._limits)
        interrupt = CoroutineInterrupt()
        timer = asyncio.get_running_loop().call_later(timeout, interrupt.raise_in, task)
        try:
            return await run_coroutine(context, handler, self._limits, interrupt)
        finally:
            timer.cancel()

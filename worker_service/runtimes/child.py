"""Suspects, each in a process of its own.

A suspect's holder died, perhaps of it. So it runs where its death harms nobody, and that death is the verdict: killed
by a signal, or ended without a result. The children are forked from a zygote that has imported the user's modules, so
that hundreds of suspects cost milliseconds each. They have no broker connection and no secrets in their environment.

A child may also kill the zygote, its parent. When it was the only one running, that is its verdict; otherwise nobody
can tell which one did it, and each of them is run again in a zygote of its own, one after another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from common.background import Report
from common.context import Surroundings, TaskContext
from common.wire import Outcome, ReturnReason
from worker_service.attempts import Attempt
from worker_service.results import returned
from worker_service.runtimes import Finished, Missed
from worker_service.runtimes.forker import Forker, ZygoteDied
from worker_service.runtimes.keeper import Keeper
from worker_service.runtimes.process import Process, crashed, stacks_of

_log = logging.getLogger(__name__)


class ChildRuntime:
    """Runs each attempt in a process of its own.

    Args:
        zygote: what the children are forked from, their own.
        start_forker: starts another one, for what has to run apart from the other suspects.
        finished: told of what has ended.
        missed: tells what must not be begun any more.
        surroundings: what is done for the tasks.
        report: told of a crash of this code itself.
    """

    def __init__(
        self,
        zygote: Keeper,
        start_forker: Callable[[], Awaitable[Forker]],
        finished: Finished,
        missed: Missed,
        surroundings: Surroundings,
        report: Report | None = None,
    ) -> None:
        self._zygote = zygote
        self._start_forker = start_forker
        self._finished = finished
        self._missed = missed
        self._surroundings = surroundings
        self._report = report
        self._processes: dict[Attempt, Process] = {}
        self._one_by_one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the zygote.

        Raises:
            SettingsError: the user's modules cannot be imported there.
        """
        await self._zygote.alive()

    def run(self, attempts: Sequence[Attempt]) -> None:
        """See `Runtime.run`."""
        for attempt in attempts:
            attempt.context = TaskContext(attempt.assignment, attempt.bundle.queue, self._surroundings)
            task = asyncio.get_running_loop().create_task(self._one(attempt), name="suspect")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def interrupt(self, attempt: Attempt) -> None:
        """See `Runtime.interrupt`: the process has a clock of its own."""

    def cancel(self, attempt: Attempt) -> None:
        """See `Runtime.cancel`: its process is killed."""
        attempt.context.cancelled = True
        if (process := self._processes.get(attempt)) is not None:
            process.kill()

    end = cancel

    def abandon(self, attempt: Attempt) -> None:
        """See `Runtime.abandon`: a process that was killed is gone."""

    async def stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        """See `Runtime.stacks`."""
        return await stacks_of({each: process for each in attempts if (process := self._processes.get(each))})

    async def stop(self) -> None:
        """Kill the children that still run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._zygote.stop()

    async def _one(self, attempt: Attempt) -> None:
        try:
            outcome = await self._run(await self._zygote.alive(), attempt)
        except ZygoteDied as error:
            if error.alone:
                outcome = crashed(attempt, "it killed the process that forks children")
            else:
                outcome = await self._apart(attempt)
        self._finished([(attempt, outcome)])

    async def _run(self, forker: Forker, attempt: Attempt) -> Outcome:
        process = await forker.fork()
        if not attempt.begun and self._missed(attempt.started):
            process.close()
            return returned(attempt.assignment, ReturnReason.AWAY)
        attempt.begun = True
        self._processes[attempt] = process
        try:
            if attempt.context.cancelled:
                process.kill()
            return await process.run(attempt)
        finally:
            del self._processes[attempt]
            process.close()

    async def _apart(self, attempt: Attempt) -> Outcome:
        async with self._one_by_one:
            forker = await self._start_forker()
            try:
                return await self._run(forker, attempt)
            except ZygoteDied:
                return crashed(attempt, "it killed the process that forks children")
            finally:
                await forker.stop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # The attempt would never be answered; the process is started again by whatever runs it.
        _log.error("running a suspect failed", exc_info=error)
        if self._report is not None:
            self._report("suspects", error)

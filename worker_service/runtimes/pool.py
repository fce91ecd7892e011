"""`@task(runtime="process")`: attempts in a pool of processes, of which only the hung or cancelled one is killed.

The processes are forked from a zygote of their own (`runtimes.zygote`): the start method is always this one, whatever
`multiprocessing` uses. Each runs one attempt after another, and a new one takes its place after `recycle_after` of
them, so that what leaks is given back. A process that dies is the verdict on the attempt that it ran, and on no other.

When the zygote itself dies, its processes die with it, and nobody can tell which of their attempts did it: so each is
run again as a suspect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from common.background import Report
from common.context import Surroundings, TaskContext
from common.telemetry import Telemetry
from common.wire import Outcome, ReturnReason
from worker_service.attempts import Attempt
from worker_service.events import ProcessEnded
from worker_service.results import returned
from worker_service.runtimes import Finished, Missed
from worker_service.runtimes.forker import ZygoteDied
from worker_service.runtimes.keeper import Keeper
from worker_service.runtimes.process import Process, stacks_of

_log = logging.getLogger(__name__)


class ProcessRuntime:
    """Runs attempts in a pool of processes, which grows on demand; whoever gives it attempts bounds their number.

    Args:
        zygote: what its processes are forked from, its own.
        finished: told of what has ended.
        missed: tells what must not be begun any more.
        apart: runs attempts as suspects.
        surroundings: what is done for the tasks.
        recycle_after: how many attempts one process runs.
        needed: whether there are task functions for it.
        telemetry: where `ProcessEnded` goes.
        report: told of a crash of this code itself.
    """

    def __init__(
        self,
        zygote: Keeper,
        finished: Finished,
        missed: Missed,
        apart: Callable[[Sequence[Attempt]], None],
        surroundings: Surroundings,
        *,
        recycle_after: int,
        needed: bool,
        telemetry: Telemetry,
        report: Report | None = None,
    ) -> None:
        self._zygote = zygote
        self._finished = finished
        self._missed = missed
        self._apart = apart
        self._surroundings = surroundings
        self._recycle_after = recycle_after
        self._needed = needed
        self._telemetry = telemetry
        self._report = report
        self._idle: list[Process] = []
        self._busy: dict[Attempt, Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> int:
        """How many processes there are."""
        return len(self._idle) + len(self._busy)

    async def start(self) -> None:
        """Start the zygote, where there is something to run.

        Raises:
            SettingsError: the user's modules cannot be imported there.
        """
        if self._needed:
            await self._zygote.alive()

    def run(self, attempts: Sequence[Attempt]) -> None:
        """See `Runtime.run`."""
        for attempt in attempts:
            attempt.context = TaskContext(attempt.assignment, attempt.bundle.queue, self._surroundings)
            task = asyncio.get_running_loop().create_task(self._one(attempt), name="process")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def interrupt(self, attempt: Attempt) -> None:
        """See `Runtime.interrupt`: the process has a clock of its own."""

    def cancel(self, attempt: Attempt) -> None:
        """See `Runtime.cancel`: its process is killed."""
        attempt.context.cancelled = True
        if (process := self._busy.get(attempt)) is not None:
            process.kill()

    end = cancel

    def abandon(self, attempt: Attempt) -> None:
        """See `Runtime.abandon`: a process that was killed is gone."""

    async def stacks(self, attempts: Sequence[Attempt]) -> dict[Attempt, list[str]]:
        """See `Runtime.stacks`."""
        return await stacks_of({each: process for each in attempts if (process := self._busy.get(each))})

    async def stop(self) -> None:
        """Kill the processes."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for process in self._idle:
            process.close()
        self._idle.clear()
        await self._zygote.stop()

    async def _one(self, attempt: Attempt) -> None:
        try:
            outcome = await self._run(attempt)
        except ZygoteDied:
            _log.warning("the process that forks the pool died, its tasks are run apart from each other")
            self._apart([attempt])
            return
        self._finished([(attempt, outcome)])

    async def _run(self, attempt: Attempt) -> Outcome:
        process = await self._free()
        if self._missed(attempt.started):
            self._idle.append(process)
            return returned(attempt.assignment, ReturnReason.AWAY)
        attempt.begun = True
        self._busy[attempt] = process
        ran = False
        try:
            if attempt.context.cancelled:
                process.kill()
            outcome = await process.run(attempt)
            ran = True
            return outcome
        finally:
            del self._busy[attempt]
            if ran:
                self._give_back(process, killed=attempt.context.cancelled)
            else:
                process.close()

    async def _free(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
            self._end(process, "died")
        return await (await self._zygote.alive()).fork()

    def _give_back(self, process: Process, *, killed: bool) -> None:
        if killed or not process.alive:
            self._end(process, "killed" if killed else "died")
        elif process.tasks >= self._recycle_after:
            self._end(process, "recycled")
        else:
            self._idle.append(process)

    def _end(self, process: Process, reason: str) -> None:
        process.close()
        self._telemetry.emit(ProcessEnded(reason))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # The attempt would never be answered; the process is started again by whatever runs it.
        _log.error("running a task in a process failed", exc_info=error)
        if self._report is not None:
            self._report("processes", error)

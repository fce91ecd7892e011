"""Long-running tasks: their deliveries are given up in time.

A broker takes back what is not acked within its consumer timeout (30 minutes by default, on RabbitMQ 3.10 for all
queues alike) and closes the channel with everything on it. So a task that runs for longer than `after` is replied
`held`, and its delivery is acked with the rest of its bundle: from then on only this worker's beats say who has it.
https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from common.background import Periodic, Report
from worker_service.attempts import Attempt
from worker_service.replier import Answer
from worker_service.results import held
from worker_service.runtimes import Done


class Holder:
    """Replies `held` for what runs too long.

    Args:
        after: seconds since the delivery.
        running: tells the attempts that run now.
        answer: takes the outcomes.
        report: told of a crash.
    """

    def __init__(
        self, after: float, running: Callable[[], Iterable[Attempt]], answer: Answer, report: Report | None = None
    ) -> None:
        self._after = after
        self._running = running
        self._answer = answer
        self._watch = Periodic("holder", min(1.0, after / 4), self._look, report)

    async def start(self) -> None:
        """Start watching."""
        self._watch.start()

    async def drain(self) -> None:
        """Nothing: a long drain needs it too."""

    async def stop(self) -> None:
        """Stop watching."""
        await self._watch.stop()

    async def _look(self) -> None:
        oldest = asyncio.get_running_loop().time() - self._after
        due: list[Done] = []
        for attempt in self._running():
            if attempt.arrived < oldest and not attempt.held:
                attempt.held = True
                due.append((attempt, held(attempt.assignment)))
        if due:
            self._answer(due)
